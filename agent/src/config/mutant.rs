//! The key `mutant` of a test build: the rule that it leaves out, or `none`. Without it the configuration is refused; an
//! ordinary build does not know the key and refuses it.

use holdfast_agent_core::mutant::{LeftOut, Mutant, leave_out, left_out};

use super::reader::{Reader, parsed};

/// Leaves out what the configuration names, for this process.
pub(super) fn read(top: &mut Reader<'_>) -> Option<()> {
    let LeftOut(mutant) = top.required("mutant", parsed(|text: String| text.parse::<LeftOut>()))?;
    leave_out(mutant);
    Some(())
}

/// What the log says first.
pub fn warning() -> String {
    let mutant = Mutant::ALL.into_iter().find(|mutant| left_out(*mutant));
    let what = mutant.map_or("every rule is in it now".into(), |mutant| {
        format!("rule {} is left out: {}", mutant.rule(), mutant.sentence())
    });
    format!("this is a test build with mutants, never for real data; {what}")
}
