//! The promotion hooks that are connected, and what they have been told (rule 10).
//!
//! The one lock under which a hook is told to go on, or the term is given back. What may be told is decided in
//! [`holdfast_agent_core::relinquish`]; here the answer is written while the lock is held, so that of the two exactly one
//! happens. A write that fails because the hook is gone has told nobody anything.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard};

use holdfast_agent_core::relinquish::Hooks;
use holdfast_types::Term;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// The hooks of one member.
#[derive(Debug, Default)]
pub struct Desk {
    hooks: Mutex<Hooks>,
}

/// A hook that is connected. When this is dropped it has its answer, or is gone.
pub struct Waiting<'d> {
    desk: &'d Desk,
    wake: &'d Notify,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.desk.lock().went();
        self.wake.notify_one();
    }
}

impl Desk {
    /// Held for moments only, never over an await.
    fn lock(&self) -> MutexGuard<'_, Hooks> {
        self.hooks.lock().expect("nobody panics while holding the hooks")
    }

    /// What the hooks have been told so far.
    pub fn now(&self) -> Hooks {
        *self.lock()
    }

    /// A hook has connected. `wake` is told of it, and when it has gone.
    pub fn enter<'d>(&'d self, wake: &'d Notify) -> Waiting<'d> {
        self.lock().came();
        wake.notify_one();
        Waiting { desk: self, wake }
    }

    /// OPEN of `term` is about to be sent.
    pub fn opening(&self, term: Term) {
        self.lock().opening(term);
    }

    /// The attestation that gives `term` back is about to be sent; `false` if a hook was or is to be let pass.
    pub fn give_back(&self, term: Term) -> bool {
        self.lock().give_back(term)
    }

    /// The attestation of `term` was withdrawn.
    pub fn taken_back(&self, term: Term) {
        self.lock().taken_back(term);
    }

    /// Tells a hook to go on in `term`, unless the term is given back: then `false`, and nothing is written. An error
    /// means that the hook is gone, and that it was told nothing.
    pub async fn pass(&self, term: Term, line: &[u8], hook: &OwnedWriteHalf) -> io::Result<bool> {
        loop {
            hook.writable().await?;
            match self.try_pass(term, line, hook) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn try_pass(&self, term: Term, line: &[u8], hook: &OwnedWriteHalf) -> io::Result<bool> {
        let mut hooks = self.lock();
        if !hooks.may_pass(term) {
            return Ok(false);
        }
        let written = hook.try_write(line)?;
        // Whatever has left this process may be read: it counts as returned 0 (DESIGN section 10).
        hooks.passed(term);
        if written < line.len() {
            return Err(ErrorKind::WriteZero.into());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    const TERM: Term = Term(5);
    const LINE: &[u8] = b"{\"answer\":\"pass\"}\n";

    /// The agent's end of a hook's connection, and the hook's.
    fn hook() -> (OwnedWriteHalf, UnixStream) {
        let (agent, hook) = UnixStream::pair().unwrap();
        (agent.into_split().1, hook)
    }

    /// A desk at which the first hook has had the term opened for it.
    fn opened(wake: &Notify) -> Desk {
        let desk = Desk::default();
        let waiting = desk.enter(wake);
        desk.opening(TERM);
        assert!(!desk.give_back(TERM), "it waits for its answer");
        drop(waiting);
        desk
    }

    #[tokio::test]
    async fn a_hook_that_went_before_its_answer_was_told_nothing() {
        let (wake, desk) = (Notify::new(), Desk::default());
        let waiting = desk.enter(&wake);
        desk.opening(TERM);
        let (agent, gone) = hook();
        drop(gone);
        assert!(desk.pass(TERM, LINE, &agent).await.is_err());
        assert!(!desk.now().can_give_back(TERM), "until its connection has ended here too");
        wake.notified().await;
        drop(waiting);
        wake.notified().await;
        assert!(desk.give_back(TERM));
    }

    #[tokio::test]
    async fn an_answer_that_was_written_counts_as_heard() {
        let wake = Notify::new();
        let desk = opened(&wake);
        let (agent, unread) = hook();
        assert!(desk.pass(TERM, LINE, &agent).await.unwrap());
        drop(unread);
        assert!(!desk.give_back(TERM));
    }

    #[tokio::test]
    async fn a_second_hook_passes_or_the_term_is_given_back_and_never_both() {
        let wake = Notify::new();
        for turn in 0..200 {
            let desk = opened(&wake);
            let (agent, mut second) = hook();
            agent.writable().await.unwrap();
            // A hook that has not been counted yet is the harder case: nothing but the lock keeps the two apart.
            let begin = std::sync::Barrier::new(2);
            let (told, given) = std::thread::scope(|scope| {
                let give = scope.spawn(|| {
                    begin.wait();
                    desk.give_back(TERM)
                });
                begin.wait();
                let told = desk.try_pass(TERM, LINE, &agent).unwrap();
                (told, give.join().unwrap())
            });
            assert_ne!(told, given, "turn {turn}");
            drop(agent);
            let mut heard = Vec::new();
            second.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard == LINE, told, "turn {turn}");
        }
    }
}
