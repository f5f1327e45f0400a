//! The kernel dead-man: the one way through to a writer's PostgreSQL port, which closes by itself at a deadline.
//!
//! A table of its own per instance: a set with one element, the port, that has a timeout; without the element nothing
//! passes, established or not. The agent puts the element back as long as its write lease is valid (`PROTOCOL.md` rule
//! 19). No process has to run for it to close. Loopback passes: sessions over it are the guard's business.
//!
//! *The deadline is absolute, the kernel's timeout is not.* It starts when the kernel takes it, so it is computed just
//! before, and what took long is done again or undone. Whoever is stopped between the two has, when it runs again, an
//! element that is late by as long, until its next instruction. `nft`, a process of its own, gets only a short timeout.
//!
//! *A refresh holds only on top of what was verified.* It names the kernel's count of changes; when somebody else has
//! changed anything meanwhile, the kernel refuses, the rules are compared with those that were loaded, and it is tried again.
//! So `flush ruleset`, or a single deleted rule, ends in [`DeadManError::Gone`] at the next refresh.
//!
//! Called by the writer's agent about once a second. Decides nothing: the lease is not known here.

pub(crate) mod element;
pub(crate) mod rules;

use std::fmt::Write as _;
use std::io;

use nix::errno::Errno;

use super::generation::{self, Generation};
use super::netlink::Socket;
use super::{NftError, chains, folded, load, rule};
use crate::clock::boottime_ms;

/// The kernel counts in ticks (4 ms at 250 Hz, 10 ms at 100 Hz). A timeout of less than one tick is taken for none at
/// all: the element would stay for ever.
pub const TIMEOUT_MIN_MS: u64 = 20;
/// What `nft` puts in, until a refresh follows: `nft` may be stopped for any time before it tells the kernel.
const OPENING_MS: u64 = 250;
/// A refresh takes well under a millisecond. One that took longer than this (the kernel was busy, or we were not running)
/// may end too late by as much, and is done again. The guard's grace, which is 300 ms or more, lies behind the lease.
const LATE_MS: u64 = 50;
/// Between two looks somebody else may change something. Not so often.
const ATTEMPTS: u32 = 5;

/// Why the way is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeadManError {
    /// The table, or a part of it, is not there any more or was never there: **the port may be open to everybody**.
    #[error(
        "the dead-man's table {0} is not what was loaded: arm it again, and find out who changes the packet filter"
    )]
    Gone(String),
    /// The deadline has passed or is so near that nothing was opened. What was open closes at the deadline before.
    #[error("the deadline is {left_ms} ms away, less than {TIMEOUT_MIN_MS}: nothing was opened")]
    Past {
        /// How far; 0 when it has passed.
        left_ms: u64,
    },
    /// Somebody changes the packet filter all the time. What was open stays so until its deadline.
    #[error("the packet filter was busy with changes of others at each of {ATTEMPTS} attempts: try again")]
    Busy,
    /// The kernel does not answer, or does not permit it.
    #[error("the kernel's packet filter: {0}; does the process have CAP_NET_ADMIN?")]
    Kernel(#[from] io::Error),
    /// `nft` did not load the table.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Whether the way through is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// There is no table, or not all of it: nothing holds anybody back.
    Absent,
    /// Nothing passes.
    Closed,
    /// Everything passes.
    Open {
        /// For how long.
        remaining_ms: u64,
    },
}

/// The dead-man of one instance.
#[derive(Debug)]
pub struct DeadMan {
    table: String,
    port: u16,
    /// What was loaded and when it was last known to be unchanged; `None`: nothing by us.
    verified: Option<(Generation, Vec<u8>)>,
    /// Kept between two refreshes; see [`Socket`].
    socket: Option<Socket>,
}

impl DeadMan {
    /// The dead-man of the instance with this namespace, scope and port. Nothing is loaded.
    pub fn new(namespace: &str, scope: &str, port: u16) -> Self {
        let table = format!("holdfast_lease_{}_{}", folded(namespace), folded(scope));
        Self { table, port, verified: None, socket: None }
    }

    /// The name of its table.
    pub fn table_name(&self) -> &str {
        &self.table
    }

    /// Loads the table in one transaction, in place of what is there, and opens the way until the deadline
    /// (`CLOCK_BOOTTIME`, milliseconds). `None`: loads it closed. Also the repair after [`DeadManError::Gone`]: what is
    /// established goes on without a gap.
    pub async fn arm(&mut self, deadline_boottime_ms: Option<u64>) -> Result<(), DeadManError> {
        self.verified = None;
        for _ in 0..ATTEMPTS {
            let before = self.by_socket(|_, socket| Ok(generation::read_by(socket)?))?;
            let opening_ms = match deadline_boottime_ms {
                Some(deadline_ms) => timeout_ms(deadline_ms)?.min(OPENING_MS),
                None => 0,
            };
            load(&self.table, &self.content(opening_ms)).await?;
            let (rules, after) = self.by_socket(|dead_man, socket| {
                Ok((rules::read(socket, &dead_man.table)?, generation::read_by(socket)?))
            })?;
            // Only then what was read is what was loaded.
            if after.follows(before) {
                self.verified = Some((after, rules));
                return deadline_boottime_ms.map_or(Ok(()), |deadline_ms| self.refresh(deadline_ms));
            }
        }
        Err(DeadManError::Busy)
    }

    /// Keeps the way open until the deadline (`CLOCK_BOOTTIME`, milliseconds), or opens it again. One transaction: what is
    /// established sees nothing of it. Blocks for some ten microseconds, and for as long as the kernel is busy with a
    /// transaction of somebody else.
    pub fn refresh(&mut self, deadline_boottime_ms: u64) -> Result<(), DeadManError> {
        self.by_socket(|dead_man, socket| dead_man.refresh_by(socket, deadline_boottime_ms))
    }

    fn refresh_by(&mut self, socket: &Socket, deadline_boottime_ms: u64) -> Result<(), DeadManError> {
        let (mut present, mut late) = (true, false);
        for _ in 0..ATTEMPTS {
            let asked_ms = boottime_ms();
            let timeout_ms = timeout_ms(deadline_boottime_ms)?;
            let generation = self.generation()?;
            let change = element::Change { table: &self.table, port: self.port, generation };
            match element::commit(socket, &change.put(element::numbers(socket), present, timeout_ms))? {
                None => {
                    self.follow(generation);
                    if boottime_ms().saturating_sub(asked_ms) <= LATE_MS {
                        return Ok(());
                    }
                    (present, late) = (true, true);
                    if let Err(past) = self::timeout_ms(deadline_boottime_ms) {
                        self.close_by(socket)?;
                        return Err(past);
                    }
                }
                Some(Errno::ERESTART) => self.verify(socket)?,
                // It has run out: there is nothing to take away before.
                Some(Errno::ENOENT) if present => present = false,
                Some(error) => return Err(self.failed(error)),
            }
        }
        if late {
            self.close_by(socket)?;
        }
        Err(DeadManError::Busy)
    }

    /// Closes the way at once.
    pub fn close(&mut self) -> Result<(), DeadManError> {
        self.by_socket(Self::close_by)
    }

    fn close_by(&mut self, socket: &Socket) -> Result<(), DeadManError> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let change = element::Change { table: &self.table, port: self.port, generation };
            match element::commit(socket, &change.take(element::numbers(socket)))? {
                None => {
                    self.follow(generation);
                    return Ok(());
                }
                Some(Errno::ERESTART) => self.verify(socket)?,
                Some(Errno::ENOENT) => {
                    return match self.door_by(socket)? {
                        Door::Closed => Ok(()),
                        _ => Err(self.failed(Errno::ENOENT)),
                    };
                }
                Some(error) => return Err(self.failed(error)),
            }
        }
        Err(DeadManError::Busy)
    }

    /// The kernel's count of changes at which everything of ours was known to be there, our own last change included.
    pub fn verified_at(&self) -> Option<Generation> {
        self.verified.as_ref().map(|(generation, _)| *generation)
    }

    /// Takes the table away: nothing of ours is in the way any more.
    pub async fn remove(&mut self) -> Result<(), DeadManError> {
        self.verified = None;
        Ok(load(&self.table, "").await?)
    }

    /// Whether the way is open now. Before the first [`DeadMan::arm`] of this process it is looked for the set only, which
    /// a former agent may have left; afterwards for everything that was loaded.
    pub fn door(&mut self) -> Result<Door, DeadManError> {
        self.by_socket(|dead_man, socket| dead_man.door_by(socket))
    }

    fn door_by(&self, socket: &Socket) -> Result<Door, DeadManError> {
        if let Some((generation, loaded)) = &self.verified
            && generation::read_by(socket)? != *generation
            && rules::read(socket, &self.table)? != *loaded
        {
            return Ok(Door::Absent);
        }
        Ok(match element::remaining_ms(socket, &self.table, self.port)? {
            Some(remaining_ms) => Door::Open { remaining_ms },
            None if element::set_is_there(socket, &self.table)? => Door::Closed,
            None => Door::Absent,
        })
    }

    /// One that has failed is not used again: its answer may come later.
    fn by_socket<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &Socket) -> Result<T, DeadManError>,
    ) -> Result<T, DeadManError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::open()?,
        };
        let result = work(self, &socket);
        if !matches!(result, Err(DeadManError::Kernel(_))) {
            self.socket = Some(socket);
        }
        result
    }

    fn generation(&self) -> Result<Generation, DeadManError> {
        let verified = self.verified.as_ref();
        verified.map(|(generation, _)| *generation).ok_or_else(|| DeadManError::Gone(self.table.clone()))
    }

    /// A change of ours has come on top of `generation`.
    fn follow(&mut self, generation: Generation) {
        if let Some((verified, _)) = &mut self.verified {
            *verified = generation.next();
        }
    }

    /// Somebody else has changed something: is everything of ours still there?
    fn verify(&mut self, socket: &Socket) -> Result<(), DeadManError> {
        let before = generation::read_by(socket)?;
        let found = rules::read(socket, &self.table)?;
        match &mut self.verified {
            // A change between the two looks is found by the next attempt: it names the older one.
            Some((verified, loaded)) if *loaded == found => {
                *verified = before;
                Ok(())
            }
            _ => Err(self.failed(Errno::ENOENT)),
        }
    }

    fn failed(&mut self, error: Errno) -> DeadManError {
        if error == Errno::ENOENT {
            self.verified = None;
            return DeadManError::Gone(self.table.clone());
        }
        DeadManError::Kernel(error.into())
    }

    /// `opening_ms` 0: closed.
    fn content(&self, opening_ms: u64) -> String {
        let port = self.port;
        // An element without a timeout of its own would get the set's.
        let mut content = "  set open {\n    type inet_service; flags timeout; timeout 1m\n".to_owned();
        if opening_ms > 0 {
            writeln!(content, "    elements = {{ {port} timeout {opening_ms}ms }}")
                .expect("writing to a String does not fail");
        }
        let (mut output, mut input) = (String::new(), String::new());
        // A connection that stands is held back, not ended: a lease that comes back soon costs it a stall and no error.
        // Whoever connects anew is told at once, and goes on to another host.
        let new = "tcp flags & (syn | ack) == syn";
        rule(&mut input, &format!("tcp dport {port} {new} tcp dport != @open reject with tcp reset"));
        rule(&mut input, &format!("tcp dport {port} tcp dport != @open drop"));
        rule(&mut output, &format!("tcp sport {port} tcp sport != @open drop"));
        content + "  }\n" + &chains(&output, &input)
    }
}

fn timeout_ms(deadline_boottime_ms: u64) -> Result<u64, DeadManError> {
    let left_ms = deadline_boottime_ms.saturating_sub(boottime_ms());
    if left_ms < TIMEOUT_MIN_MS { Err(DeadManError::Past { left_ms }) } else { Ok(left_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_element_lets_through_and_loopback_comes_first() {
        let dead_man = DeadMan::new("service", "a-b", 5432);
        assert_eq!(dead_man.table, "holdfast_lease_service_a_2db");
        let closed = dead_man.content(0);
        assert!(!closed.contains("elements"), "{closed}");
        let open = dead_man.content(250);
        assert!(open.contains("elements = { 5432 timeout 250ms }"), "{open}");
        let at = |text: &str| open.find(text).unwrap_or_else(|| panic!("{text}: {open}"));
        assert!(at("iifname \"lo\" accept") < at("tcp dport 5432 tcp dport != @open drop"));
        assert!(at("tcp flags & rst == rst accept") < at("tcp sport 5432 tcp sport != @open drop"));
    }

    #[test]
    fn what_was_never_armed_cannot_be_refreshed() {
        let mut dead_man = DeadMan::new("service", "main", 5432);
        assert!(matches!(dead_man.refresh(boottime_ms() + 1_000), Err(DeadManError::Gone(_))));
        assert!(matches!(dead_man.close(), Err(DeadManError::Gone(_))));
        assert!(matches!(dead_man.refresh(0), Err(DeadManError::Past { left_ms: 0 })));
    }
}
