//! After its start the guard asks for no memory, whatever it is told and whomever it kills.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.
#![allow(unsafe_code)] // The allocator below, which only counts.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_guard::client::Client;
use holdfast_guard::server::{self, Options};
use support::{Cgroup, in_ms, may_guard, name, wait_for, wait_killed};

thread_local! {
    static IS_GUARD: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_GUARD.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_after_the_start() {
    if !may_guard() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (socket, state) = (folder.path().join("guard.sock"), folder.path().to_owned());
    let options = Options {
        socket: socket.clone(),
        state,
        watchdog: Some("/nowhere/watchdog".into()),
        watchdog_timeout_s: 10,
        by_pid: false,
    };
    // It runs until the test's process ends.
    std::thread::spawn(move || {
        IS_GUARD.set(true);
        server::run(&options).unwrap();
    });
    wait_for("the guard's socket", || Client::connect(&socket).is_ok());
    // An answer comes from the loop: the start is over.
    assert_eq!(Client::connect(&socket).unwrap().query(name()).unwrap(), None);
    let at_start = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(at_start > 0, "the counter counts nothing");
    for term in 1..4 {
        let (client, mut cgroup) = (Client::connect(&socket).unwrap(), Cgroup::new());
        let pid = cgroup.run("", "for i in $(seq 20); do sleep 1000 & done; wait");
        let outside = cgroup.run_outside("sleep 1000 & wait");
        cgroup.register(&client, Some(pid));
        client.extend(name(), term, in_ms(150), Some(outside)).unwrap();
        assert!(client.extend(name(), term - 1, in_ms(150), None).is_err());
        client.all().unwrap();
        wait_killed(&client);
        client.release(name(), term).unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - at_start, 0);
}
