//! How the processes of a host are told another wall clock; `fault::clock` says why in two ways.

use crate::lab::plan::HostPlan;

/// Debian's libfaketime; the loader fills in the architecture.
pub const LIBRARY: &str = "/usr/$LIB/faketime/libfaketime.so.1";

/// What Patroni's interpreter reads at its start.
pub const MODULE_FILE: &str = "sitecustomize.py";

/// The module: the same clock for Python, and libfaketime for what Patroni starts. `time.time` is asked thousands of times a
/// second by some libraries, so the file is read once a second.
pub const MODULE: &str = r#"import os, time

_file, _true, _monotonic = os.environ["FAKETIME_TIMESTAMP_FILE"], time.time, time.monotonic
_seen = [0.0, 0.0]


def _offset():
    now = _monotonic()
    if now >= _seen[0]:
        try:
            with open(_file) as lines:
                _seen[1] = float(lines.read())
        except (OSError, ValueError):
            pass
        _seen[0] = now + 1.0
    return _seen[1]


time.time = lambda: _true() + _offset()
os.environ["LD_PRELOAD"] = os.environ["HOLDFAST_LAB_PRELOAD"]
"#;

/// The environment of a process that libfaketime serves by itself.
pub fn preloaded(host: &HostPlan) -> Vec<(String, String)> {
    let mut environment = common(host);
    environment.push(("LD_PRELOAD".into(), LIBRARY.into()));
    environment
}

/// The environment of Patroni.
pub fn python(host: &HostPlan) -> Vec<(String, String)> {
    let mut environment = common(host);
    environment.push(("PYTHONPATH".into(), host.clock_module().display().to_string()));
    environment.push(("HOLDFAST_LAB_PRELOAD".into(), LIBRARY.into()));
    environment
}

fn common(host: &HostPlan) -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        set("FAKETIME_TIMESTAMP_FILE", &host.clock().display().to_string()),
        set("FAKETIME_CACHE_DURATION", "1"),
        set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        // Its segments in shared memory would be one more thing to clean up.
        set("FAKETIME_DISABLE_SHM", "1"),
    ]
}
