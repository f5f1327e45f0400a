//! Rule 10: what this start of the agent has told the promotion hooks of a term, and so whether the term may be given
//! back.
//!
//! A holder whose hook is gone before it was answered has a term that nobody uses: it is in recovery, and perhaps without
//! Patroni's lock. It may give the term back only while it is certain that no hook of that term was ever let pass: a hook
//! that was is as good as a promotion. So two things must never both happen in one term, a hook that is told to go on
//! and an attestation that is sent. The shell keeps one [`Hooks`] for each member behind a lock, writes the answer while
//! it holds that lock, and takes it before it sends the attestation.
//!
//! It is kept in memory only. A start of the agent that has not sent OPEN itself knows nothing of what the start before
//! it told, and never gives that term back.

use holdfast_types::Term;

/// What the hooks have been told, of the newest term that this start of the agent has to do with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hooks {
    told: Option<(Term, Told)>,
    waiting: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// OPEN was sent, for the first time by this start: no hook of the term has been let pass by anybody.
    Nothing,
    /// A hook was told to go on. That it was heard is not known; it counts as if it had been.
    Pass,
    /// The term is given back: whoever comes now waits.
    GivenBack,
}

impl Hooks {
    /// A hook has connected.
    pub fn came(&mut self) {
        self.waiting += 1;
    }

    /// A hook has its answer, or is gone.
    pub fn went(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whether a hook waits for its answer.
    pub fn is_one_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// The transaction that opens `term` is about to be sent. It may be done without our hearing of it.
    pub fn opening(&mut self, term: Term) {
        if self.told.is_none_or(|(known, _)| known < term) {
            self.told = Some((term, Told::Nothing));
        }
    }

    /// Whether a hook may be told to go on in `term`.
    pub fn may_pass(&self, term: Term) -> bool {
        !self.is_given_back(term)
    }

    /// A hook has been told to go on in `term`.
    pub fn passed(&mut self, term: Term) {
        if self.told.is_none_or(|(known, _)| known <= term) {
            self.told = Some((term, Told::Pass));
        }
    }

    /// Whether `term` can be given back now, as far as the hooks go: none was let pass, and none waits to be. One that is
    /// given back already stays so.
    pub fn can_give_back(&self, term: Term) -> bool {
        match self.told {
            Some((known, Told::Nothing)) if known == term => !self.is_one_waiting(),
            _ => self.is_given_back(term),
        }
    }

    /// The attestation is about to be sent: from now on no hook passes. `false` when that cannot be any more.
    pub fn give_back(&mut self, term: Term) -> bool {
        let can = self.can_give_back(term);
        if can {
            self.told = Some((term, Told::GivenBack));
        }
        can
    }

    /// Whether `term` is being given back, or has been.
    pub fn is_given_back(&self, term: Term) -> bool {
        self.told == Some((term, Told::GivenBack))
    }

    /// The attestation was withdrawn, and none that may still be under way can arrive any more.
    pub fn taken_back(&mut self, term: Term) {
        if self.is_given_back(term) {
            self.told = Some((term, Told::Nothing));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term(5);

    fn opened() -> Hooks {
        let mut hooks = Hooks::default();
        hooks.came();
        hooks.opening(TERM);
        hooks
    }

    #[test]
    fn a_term_whose_hook_is_gone_unanswered_is_given_back_and_lets_nobody_pass() {
        let mut hooks = opened();
        assert!(!hooks.can_give_back(TERM), "the hook that opened it waits for its answer");
        hooks.went();
        assert!(hooks.can_give_back(TERM) && hooks.may_pass(TERM));
        assert!(hooks.give_back(TERM));
        assert!(!hooks.may_pass(TERM) && hooks.may_pass(TERM.next()));
        assert!(hooks.can_give_back(TERM), "an attestation that did not arrive is sent again");
    }

    #[test]
    fn a_hook_that_was_told_to_go_on_keeps_the_term() {
        let mut hooks = opened();
        hooks.passed(TERM);
        hooks.went();
        assert!(!hooks.give_back(TERM) && hooks.may_pass(TERM));
    }

    #[test]
    fn of_a_second_hook_and_the_giving_back_exactly_one_wins() {
        let mut second_first = opened();
        second_first.went();
        second_first.came();
        assert!(!second_first.give_back(TERM) && second_first.may_pass(TERM));
        let mut back_first = opened();
        back_first.went();
        assert!(back_first.give_back(TERM));
        back_first.came();
        assert!(!back_first.may_pass(TERM));
        back_first.opening(TERM);
        assert!(!back_first.may_pass(TERM), "the same OPEN, tried again, changes nothing");
    }

    #[test]
    fn what_another_start_of_the_agent_opened_is_not_given_back() {
        let mut hooks = Hooks::default();
        assert!(!hooks.give_back(TERM));
        hooks.opening(TERM);
        assert!(!hooks.give_back(TERM.next()) && !hooks.give_back(Term(4)));
    }

    #[test]
    fn what_was_withdrawn_may_pass_again() {
        let mut hooks = opened();
        hooks.went();
        hooks.give_back(TERM);
        hooks.came();
        hooks.taken_back(Term(4));
        assert!(!hooks.may_pass(TERM));
        hooks.taken_back(TERM);
        assert!(hooks.may_pass(TERM) && !hooks.can_give_back(TERM));
    }

    #[test]
    fn an_older_term_says_nothing_about_a_newer_one() {
        let mut hooks = opened();
        hooks.went();
        hooks.give_back(TERM);
        hooks.opening(TERM.next());
        assert!(hooks.can_give_back(TERM.next()));
        hooks.passed(TERM);
        assert!(hooks.can_give_back(TERM.next()), "a late answer of the term before");
    }
}
