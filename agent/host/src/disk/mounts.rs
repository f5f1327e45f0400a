//! `/proc/self/mountinfo` and `/etc/fstab`: what is mounted where, and what should be. Pure functions over their text.

use std::path::Path;

/// A line of `mountinfo` (`proc(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: String,
    /// Type of the file system.
    pub fs_type: String,
    /// What was mounted.
    pub source: String,
}

/// All mounts, in the order in which they were made. A line that is not understood is left out.
pub fn mounts(mountinfo: &str) -> Vec<Mount> {
    let one = |line: &str| {
        let (fixed, of_system) = line.split_once(" - ")?;
        let mut of_system = of_system.split(' ');
        Some(Mount {
            point: unescaped(fixed.split(' ').nth(4)?),
            fs_type: of_system.next()?.to_owned(),
            source: unescaped(of_system.next()?),
        })
    };
    mountinfo.lines().filter_map(one).collect()
}

/// The mount on which a path lies: the longest point above it, and of two at one point the later, which hides the other.
pub fn covering<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| Path::new(&mount.point).components().count())
}

/// A mount point above `path` that the text of `fstab` wants mounted at boot, and on which nothing is.
pub fn unmounted(fstab: &str, mounts: &[Mount], path: &Path) -> Option<String> {
    let wanted = fstab.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let point = unescaped(fields.next()?);
        let options = fields.nth(1).unwrap_or_default();
        let by_hand = options.split(',').any(|option| option == "noauto");
        (point.starts_with('/') && !by_hand).then_some(point)
    });
    let is_mounted = |point: &str| mounts.iter().any(|mount| Path::new(&mount.point) == Path::new(point));
    wanted.into_iter().find(|point| path.starts_with(point) && !is_mounted(point))
}

/// Blanks, tabs, line ends and backslashes stand as three octal digits in both files.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a Debian 12 host, shortened.
    const MOUNTINFO: &str = "\
24 29 0:22 / /proc rw,relatime shared:13 - proc proc rw
29 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 29 259:1 / /mnt/ts_hot rw,noatime shared:20 - xfs /dev/nvme1n1 rw,attr2
41 29 7:3 / /mnt/two\\040words ro shared:21 - ext4 /dev/loop3 ro
42 40 7:4 / /mnt/ts_hot rw - tmpfs tmpfs rw
a line of another kind
";

    fn point(path: &str) -> Option<(String, String)> {
        let mounts = mounts(MOUNTINFO);
        covering(&mounts, Path::new(path)).map(|mount| (mount.point.clone(), mount.fs_type.clone()))
    }

    #[test]
    fn a_path_lies_on_the_nearest_and_the_newest_mount_above_it() {
        let at = |point: &str, fs_type: &str| Some((point.to_owned(), fs_type.to_owned()));
        assert_eq!(point("/var/lib/postgresql"), at("/", "ext4"));
        assert_eq!(point("/mnt/ts_hot/pg"), at("/mnt/ts_hot", "tmpfs"));
        assert_eq!(point("/mnt/ts_hotter"), at("/", "ext4"), "not by its letters");
        assert_eq!(point("/mnt/two words/x"), at("/mnt/two words", "ext4"));
        assert_eq!(point("relative"), None);
    }

    #[test]
    fn what_fstab_wants_and_is_not_there() {
        let fstab = "# <file system> <mount point>\nUUID=1 / ext4 errors=remount-ro 0 1\nUUID=2 none swap sw 0 0\n\
                     UUID=3 /mnt/ts_warm xfs defaults 0 2\nUUID=4 /mnt/by_hand ext4 noauto,ro 0 2\n\
                     UUID=5\t/mnt/two\\040words\text4\tdefaults\t0\t2\nshort\n";
        let mounts = mounts(MOUNTINFO);
        let missing = |path: &str| unmounted(fstab, &mounts, Path::new(path));
        assert_eq!(missing("/mnt/ts_warm/pg"), Some("/mnt/ts_warm".into()));
        assert_eq!(missing("/mnt/ts_hot/pg"), None, "mounted, and fstab does not know it");
        assert_eq!(missing("/mnt/by_hand/pg"), None);
        assert_eq!(missing("/mnt/two words/pg"), None);
        assert_eq!(unmounted("", &[], Path::new("/x")), None);
    }

    #[test]
    fn what_is_no_octal_stays() {
        assert_eq!(unescaped(r"a\134b\9\04"), r"a\b\9\04");
    }
}
