//! Each stored phase of an operation, and each loss right after it: how the operation ends, in what time, and for how long
//! clients of a pooler waited for it. The same runs each time.

use std::fmt;

use holdfast_types::MemberName;
use holdfast_types::record::{OperationPhase, OperationState, Switchover, Wanted};

use super::fault::{Loss, Planned, Stage, When};
use super::plan::{Course, Request, member};
use super::{Role, Setup};
use crate::simulator::executor::ms;
use crate::simulator::fault::{Fault, Kind, Target};
use crate::simulator::run::{Plan, run};

/// A host that is lost comes back after this.
const AWAY_US: u64 = ms(30_000);
const ASKED_AT_US: u64 = ms(500);

/// A point of the journal at which something is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// The request stands in etcd.
    Asked,
    /// A phase is stored.
    Stored(OperationPhase),
    /// The end is stored.
    Ended,
}

/// All of a switchover's.
pub const SWITCHOVER: [Row; 8] = [
    Row::Asked,
    Row::Stored(OperationPhase::Prepare),
    Row::Stored(OperationPhase::Pause),
    Row::Stored(OperationPhase::HandOver),
    Row::Stored(OperationPhase::Verify),
    Row::Stored(OperationPhase::Settle),
    Row::Stored(OperationPhase::Release),
    Row::Ended,
];

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.pad("asked"),
            Self::Stored(phase) => f.pad(&phase.to_string()),
            Self::Ended => f.pad("ended"),
        }
    }
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Nothing.
    Nothing,
    /// The coordinator, and another takes over.
    Coordinator,
    /// The only coordinator, which comes back.
    OnlyCoordinator,
    /// The host of the writer, of the successor, of the other standby.
    Host(Lost),
    /// The agent of one of these.
    Agent(Lost),
    /// The host of a pooler.
    PoolerHost,
    /// The agent of a pooler.
    PoolerAgent,
    /// All of etcd.
    Etcd,
}

/// Which member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Who writes when the operation begins.
    Writer,
    /// Who is to follow.
    Successor,
    /// The other synchronous standby.
    Other,
}

/// All of them.
pub const COLUMNS: [Column; 11] = [
    Column::Nothing,
    Column::Coordinator,
    Column::OnlyCoordinator,
    Column::Host(Lost::Writer),
    Column::Host(Lost::Successor),
    Column::Host(Lost::Other),
    Column::Agent(Lost::Writer),
    Column::Agent(Lost::Successor),
    Column::PoolerHost,
    Column::PoolerAgent,
    Column::Etcd,
];

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |lost: &Lost| match lost {
            Lost::Writer => "writer",
            Lost::Successor => "successor",
            Lost::Other => "other standby",
        };
        match self {
            Self::Nothing => f.pad("nothing"),
            Self::Coordinator => f.pad("coordinator"),
            Self::OnlyCoordinator => f.pad("only coordinator"),
            Self::Host(lost) => f.pad(&format!("host of {}", of(lost))),
            Self::Agent(lost) => f.pad(&format!("agent of {}", of(lost))),
            Self::PoolerHost => f.pad("host of pooler"),
            Self::PoolerAgent => f.pad("agent of pooler"),
            Self::Etcd => f.pad("etcd"),
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where.
    pub row: Row,
    /// What was lost.
    pub column: Column,
    /// How the operation ended; absent: it never did, or did not come to that point.
    pub state: Option<OperationState>,
    /// What it said then.
    pub text: String,
    /// Since it was taken.
    pub took_us: u64,
    /// The longest that a pooler's clients waited for it.
    pub longest_pause_us: u64,
    /// What was broken.
    pub broken: Option<String>,
}

/// The plan of a run of the table. `seed` chooses delays only.
pub fn plan(row: Row, column: Column, seed: u64) -> Plan {
    let when = match row {
        Row::Asked => When::At(ASKED_AT_US + 1),
        Row::Stored(phase) => When::Upon(Stage::Stored(phase)),
        Row::Ended => When::Upon(Stage::Ended),
    };
    let mut losses: Vec<Planned> = loss(column).map(|loss| Planned { when, loss }).into_iter().collect();
    if row == Row::Stored(OperationPhase::Release) {
        // A transaction that stays open: the poolers do not come to rest in time.
        let when = When::Upon(Stage::Stored(OperationPhase::Prepare));
        losses.push(Planned { when, loss: Loss::Busy(1, ms(20_000)) });
    }
    let setup = Setup {
        coordinators: if column == Column::OnlyCoordinator { 1 } else { 2 },
        poolers: 3,
        stops_at_once: seed.is_multiple_of(2),
    };
    let to: Option<MemberName> = Some(member(1));
    let wanted = Wanted::Switchover(Switchover { to, ..Switchover::default() });
    let requests = vec![Request { at_us: ASKED_AT_US, wanted }];
    Plan { seed, faults: Vec::new(), mutant: None, operations: Some(Course { setup, requests, losses }) }
}

fn loss(column: Column) -> Option<Loss> {
    let host = |lost| match lost {
        Lost::Writer => 0,
        Lost::Successor => 1,
        Lost::Other => 2,
    };
    let fault = |kind, host, for_us| {
        let target = Target::Host(host);
        Loss::Cluster(Fault { at_us: 0, kind, upon: None, target, peer: 0, for_us, count: 0 })
    };
    Some(match column {
        Column::Nothing => return None,
        Column::Coordinator | Column::OnlyCoordinator => Loss::WorkingCoordinator(AWAY_US),
        Column::Host(lost) => fault(Kind::PowerCycle, host(lost), AWAY_US),
        Column::Agent(lost) => fault(Kind::AgentDown, host(lost), ms(8_000)),
        Column::PoolerHost => Loss::Off(Role::Pooler, 0, AWAY_US),
        Column::PoolerAgent => Loss::Kill(Role::Pooler, 0),
        Column::Etcd => fault(Kind::EtcdDown, 0, ms(15_000)),
    })
}

/// Plays one of them.
pub fn play(row: Row, column: Column, seed: u64) -> Cell {
    let outcome = run(&plan(row, column, seed), false);
    let end = outcome.operations.iter().find(|ended| ended.operation == "switchover");
    Cell {
        row,
        column,
        state: end.map(|end| end.state),
        text: end.map(|end| end.text.clone()).unwrap_or_default(),
        took_us: end.map_or(0, |end| end.took_us),
        longest_pause_us: outcome.longest_pause_us,
        broken: outcome.violation.map(|violation| format!("{}: {}", violation.promise, violation.text)),
    }
}

/// Plays all of them, on so many threads, one after the other in each row.
pub fn all(seed: u64, threads: usize) -> Vec<Cell> {
    let places: Vec<(Row, Column)> =
        SWITCHOVER.iter().flat_map(|row| COLUMNS.iter().map(|column| (*row, *column))).collect();
    let share = places.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let work = |part: &[(Row, Column)]| -> Vec<Cell> {
            part.iter().map(|(row, column)| play(*row, *column, seed)).collect()
        };
        let parts: Vec<_> = places.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a run does not panic")).collect()
    })
}

impl Cell {
    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        let Self { row, column, state, broken, .. } = self;
        match (state, broken) {
            (_, Some(broken)) => Some(format!("{column} lost at {row:?}: {broken}")),
            (None, None) => Some(format!("{column} lost at {row:?}: there is no end")),
            (Some(_), None) => None,
        }
    }

    fn text(&self) -> String {
        let state = match (&self.state, &self.broken) {
            (_, Some(_)) => "BROKEN",
            (None, None) => "no end",
            (Some(OperationState::Done), None) => "done",
            (Some(OperationState::Refused), None) => "refused",
            (Some(OperationState::Unchanged), None) => "unchanged",
            (Some(OperationState::Overtaken), None) => "overtaken",
            (Some(OperationState::PartlyDone), None) => "partly done",
        };
        let seconds = |us: u64| us as f64 / 1e6;
        format!("{state} {:.1} s / {:.1} s", seconds(self.took_us), seconds(self.longest_pause_us))
    }
}

/// The table: one line for each point, one column for each loss: how it ended, after what time, and the longest time for
/// which a pooler kept its clients for it.
pub fn text(cells: &[Cell]) -> String {
    let mut table = comfy_table::Table::new();
    let rows = SWITCHOVER.map(|row| row.to_string());
    table.set_header(std::iter::once("lost, right after ... is stored".to_owned()).chain(rows));
    for column in COLUMNS {
        let of_row = |row: &Row| {
            let found = cells.iter().find(|cell| (cell.row, cell.column) == (*row, column));
            found.map(Cell::text).unwrap_or_default()
        };
        let line = SWITCHOVER.iter().map(of_row);
        table.add_row(std::iter::once(column.to_string()).chain(line));
    }
    table.to_string()
}
