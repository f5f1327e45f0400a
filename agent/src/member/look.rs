//! What is seen of the instance on this host: its postmaster, its Patroni, its recovery. Decides nothing.
//!
//! An idle look costs two reads of `/proc` and no query: PostgreSQL is asked when something changed, and otherwise every
//! [`QUIET_TICKS`] looks, because the agent's whole budget at rest is 0.07 % of a core.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_agent_core::attest::ControlState;
use holdfast_agent_core::cluster::Cluster;
use holdfast_agent_core::hung::{Cause, Hung, Pulse};
use holdfast_agent_core::member::{AfterStop, Postgres, term_in_force};
use holdfast_host::process::PidFd;
use holdfast_host::{clock, durable};
use holdfast_proto::tls::Protocol;
use holdfast_types::record::{Reign, RestartEnd, SetupSeen};
use holdfast_types::{MemberName, Mode, Position};
use tokio::task::JoinHandle;

use super::places::Placing;
use super::{Member, setup};
use crate::local_disarm;
use crate::observe::processes::{self, Postmaster, Seen};
use crate::observe::{control_data, patroni_rest, synchronous_standby_names};

/// PostgreSQL and Patroni's REST API are asked at least every so many looks.
const QUIET_TICKS: u32 = 5;
/// Patroni's REST API must be silent this often, one after the other, before its Patroni counts as hung.
const SILENCES: u32 = 2;
/// A disk that has not answered by then is not waited for.
const DISK_DEADLINE: Duration = Duration::from_millis(500);
/// Deadline of one question to Patroni's REST API.
const REST_DEADLINE: Duration = Duration::from_millis(1_500);

/// What is carried from look to look.
#[derive(Default)]
pub struct Eyes {
    postmaster: Option<(i32, PidFd)>,
    seen: Seen,
    /// A full look that a dead disk holds up: it is left behind, and no second is begun beside it.
    looking: Option<JoinHandle<OnDisk>>,
    looks: u32,
    placing: Placing,
    revision: i64,
    /// A question to Patroni that is on its way: the loop never waits for the answer.
    asking: Option<JoinHandle<patroni_rest::Heard>>,
    rest_silences: u32,
    /// A person's order to this host alone.
    pub(super) order: local_disarm::Reader,
    /// PostgreSQL's log.
    pub(super) log: super::warned::Log,
}

impl Eyes {
    /// Ends when the postmaster that was seen last has exited; waits for ever when there was none.
    pub async fn postmaster_exit(&self) {
        match &self.postmaster {
            Some((_, pid_fd)) => pid_fd.exited().await,
            None => std::future::pending().await,
        }
    }
}

impl Member {
    /// Looks at the instance and keeps what was seen in the state.
    pub(super) async fn look(&self, eyes: &mut Eyes, cluster: &Cluster) {
        self.look_at_network().await;
        if self.look_at_rest(cluster).await {
            eyes.postmaster = None;
            return;
        }
        let changed = cluster.revision != eyes.revision;
        eyes.revision = cluster.revision;
        eyes.looks = eyes.looks.wrapping_add(1);
        // An armed cluster waits for the id of each member's data before its first term is opened.
        let needs_id = {
            let state = self.state();
            state.remembered.mode == Mode::Armed && state.data_uuid.is_none()
        };
        let thorough = eyes.looks % QUIET_TICKS == 1 || needs_id;
        let seen = match eyes.seen.glance().filter(|_| !thorough) {
            Some(seen) => seen,
            None => self.look_at_disk(eyes).await,
        };
        self.hold_postmaster(eyes, seen.postmaster);
        if seen.patroni != eyes.seen.patroni {
            // Another Patroni: what the one before did not answer is not its fault.
            (eyes.asking, eyes.rest_silences) = (None, 0);
        }
        eyes.seen = seen.clone();
        {
            let mut state = self.state();
            state.patroni_alive = seen.patroni_alive();
            state.postmaster = eyes.postmaster.as_ref().map(|(pid, _)| *pid);
        }
        self.ask_patroni(eyes, thorough && seen.patroni_alive()).await;
        self.note_hung(seen.patroni_stopped() || eyes.rest_silences >= SILENCES);
        match seen.postmaster {
            Postmaster::Alive(_) => self.state().after_stop = None,
            Postmaster::Gone => {
                {
                    let mut state = self.state();
                    if matches!(state.postgres, Some(Postgres::Running { .. })) {
                        state.gone_wall_ms = Some(clock::wall_ms());
                    }
                    state.postgres = Some(Postgres::Gone);
                    (state.streaming, state.stream_lost_ms) = (Some(false), None);
                }
                if thorough && self.state().position.is_none() {
                    let instance = &self.instance;
                    let reached = control_data::reached(&instance.bin_dir, &instance.data_dir).await;
                    self.state().position = reached.ok().flatten();
                }
                return self.look_after_stop(cluster, &seen).await;
            }
            Postmaster::Unknown => {
                let mut state = self.state();
                (state.postgres, state.streaming, state.after_stop) = (Some(Postgres::Unknown), None, None);
                return;
            }
        }
        let unsettled = {
            let state = self.state();
            !matches!(state.postgres, Some(Postgres::Running { in_recovery: Some(_) }))
                || state.streaming != Some(true)
        };
        if changed || thorough || unsettled || self.promotion_is_due(cluster) {
            self.ask_postgres(cluster, thorough).await;
        }
        if thorough {
            self.count_warned(eyes, cluster).await;
        }
    }

    fn hold_postmaster(&self, eyes: &mut Eyes, seen: Postmaster) {
        match seen {
            Postmaster::Alive(pid) if eyes.postmaster.as_ref().is_none_or(|(known, _)| *known != pid) => {
                eyes.postmaster = PidFd::open(pid).ok().map(|pid_fd| (pid, pid_fd));
                // What was known of the one before says nothing about this one.
                let mut state = self.state();
                (state.killed, state.postgres, state.position) = (false, None, None);
                (state.left_recovery, state.replayed) = (false, None);
                (state.gone_wall_ms, state.ended, state.left_alone) = (None, None, None);
            }
            Postmaster::Alive(_) => {}
            Postmaster::Gone | Postmaster::Unknown => eyes.postmaster = None,
        }
    }

    /// The look that reads the data directory, on a thread of its own: a dead disk must not hang the agent (promise I8).
    async fn look_at_disk(&self, eyes: &mut Eyes) -> Seen {
        self.look_at_places(&mut eyes.placing).await;
        let (cgroup, data_dir) = (self.instance.cgroup.clone(), self.instance.data_dir.clone());
        let member = self.instance.member.clone();
        let may_write = self.state().remembered.mode == Mode::Armed;
        let looking = eyes.looking.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                let seen = processes::look(&cgroup, &data_dir);
                OnDisk {
                    standby_signal: data_dir.join("standby.signal").exists(),
                    data_uuid: data_uuid(&data_dir, &member, may_write),
                    setup: setup::look(&seen),
                    seen,
                }
            })
        });
        match tokio::time::timeout(DISK_DEADLINE, looking).await {
            Ok(found) => {
                eyes.looking = None;
                let Ok(found) = found else { return Seen::default() };
                let mut state = self.state();
                state.started_as_primary = !found.standby_signal;
                state.data_uuid = found.data_uuid;
                if let Some(setup) = found.setup {
                    // What PostgreSQL has said of itself is asked for elsewhere.
                    let SetupSeen { synchronous_standby_names, standbys_without_certificate, .. } =
                        state.setup.take().unwrap_or_default();
                    let of_postgres =
                        SetupSeen { synchronous_standby_names, standbys_without_certificate, ..setup };
                    state.setup = Some(of_postgres);
                }
                found.seen
            }
            Err(_) => {
                tracing::warn!(path = %self.instance.data_dir.display(), "the data directory does not answer; its state is unknown");
                Seen::default()
            }
        }
    }

    /// OPEN is ours and nobody has been told that we are writable.
    fn promotion_is_due(&self, cluster: &Cluster) -> bool {
        term_in_force(cluster).is_some_and(|term| {
            matches!(&term.value.reign, Reign::Open { holder, writable: false, .. } if *holder == self.instance.member)
        })
    }

    async fn ask_postgres(&self, cluster: &Cluster, thorough: bool) {
        // One that is known to hang is not waited for.
        let hangs = matches!(self.state().pulse, Some(Pulse::Hung(Hung { cause: Cause::Processes, .. })));
        let in_recovery = if hangs { None } else { self.sql.is_in_recovery().await.ok() };
        let (before, now) = {
            let mut state = self.state();
            let before = state.accepts_writes();
            state.postgres = Some(Postgres::Running { in_recovery });
            state.left_recovery |= in_recovery == Some(false);
            (before, state.accepts_writes())
        };
        if before != now {
            // A standby that somebody has promoted by hand must find its port closed at once.
            self.fence_wake.notify_one();
        }
        match in_recovery {
            Some(true) => {
                let Ok(standby) = self.sql.standby().await else { return };
                let mut state = self.state();
                state.stream_lost_ms = match (standby.streaming, state.streaming) {
                    (true, _) => None,
                    (false, Some(true)) => Some(clock::boottime_ms()),
                    (false, Some(false) | None) => state.stream_lost_ms,
                };
                (state.streaming, state.replayed) = (Some(standby.streaming), standby.replayed);
                state.heard_wall_ms = standby.heard_wall_ms.or(state.heard_wall_ms);
                let timeline = standby.received_timeline.or(state.received_timeline);
                // A writer that has come back received its last WAL in an earlier reign than its own.
                let timeline = timeline.max(Some(standby.control_timeline)).expect("one of them is there");
                state.position = standby.received.max(standby.replayed).map(|lsn| Position { timeline, lsn });
                if standby.received_timeline.is_some() {
                    state.received_timeline = standby.received_timeline;
                }
            }
            Some(false) => {
                {
                    let mut state = self.state();
                    (state.streaming, state.position) = (Some(true), None);
                }
                // Once, too, when `/sync` is what the floor record says: that is also written again when a member's data have
                // moved, and a writer that had never read its setting would wait for it for ever (simulator, seed 544).
                let recorded = cluster.floor.as_ref().map(|floor| floor.value.sync_mod_revision);
                let moved = cluster.sync.as_ref().map(|sync| sync.mod_revision) != recorded;
                let unread = self.state().setting.is_none();
                if thorough || moved || unread {
                    let text = self.sql.setting_text().await.ok();
                    let without_certificate = self.sql.without_certificate().await.ok();
                    let mut state = self.state();
                    state.setting =
                        text.as_ref().and_then(|text| synchronous_standby_names::parse(text).ok());
                    if let Some(setup) = &mut state.setup {
                        setup.synchronous_standby_names = text;
                        setup.standbys_without_certificate = without_certificate;
                    }
                }
            }
            None => self.state().streaming = None,
        }
    }

    /// A Patroni that runs but does not answer is hung, once it has been silent twice in a row.
    async fn ask_patroni(&self, eyes: &mut Eyes, ask: bool) {
        if let Some(asking) = eyes.asking.take_if(|asking| asking.is_finished()) {
            match asking.await {
                Ok(patroni_rest::Heard::Silence) => eyes.rest_silences += 1,
                Ok(patroni_rest::Heard::Refused) => eyes.rest_silences = 0,
                Ok(patroni_rest::Heard::Answer) => {
                    eyes.rest_silences = 0;
                    self.state().rest_problem = None;
                }
                Ok(patroni_rest::Heard::Stranger(why)) => {
                    eyes.rest_silences = 0;
                    self.note_stranger(why);
                }
                // The question itself failed here: no sign of anything.
                Err(_) => {}
            }
        }
        let again = eyes.rest_silences > 0 && eyes.rest_silences < SILENCES;
        if eyes.asking.is_none() && (ask || again) {
            let tls = self.patroni_tls();
            let url = self.instance.patroni_url.clone();
            eyes.asking =
                Some(tokio::spawn(async move { patroni_rest::is_heard(&url, tls, REST_DEADLINE).await }));
        }
        if !self.state().patroni_alive {
            eyes.rest_silences = 0;
        }
    }

    /// How Patroni's REST API is spoken to.
    pub(super) fn patroni_tls(&self) -> Arc<rustls::ClientConfig> {
        let tls = self.identity.client(Protocol::Plain);
        self.patroni_verifier.as_ref().map_or_else(
            || Arc::clone(&tls),
            |verifier| holdfast_proto::tls::trusting(&tls, Arc::clone(verifier)),
        )
    }

    /// A Patroni that we cannot speak to is not told from one that hangs: a person must know.
    fn note_stranger(&self, why: String) {
        let mut state = self.state();
        if state.rest_problem.as_ref() != Some(&why) {
            tracing::warn!(cluster = %self.instance.cluster, "Patroni's REST API cannot be asked, so one that hangs is not noticed: {why}");
        }
        state.rest_problem = Some(why);
    }

    fn note_hung(&self, hung: bool) {
        let mut state = self.state();
        state.patroni_hung = hung;
        match (hung, state.patroni_hung_since) {
            (true, None) => state.patroni_hung_since = Some(SystemTime::now()),
            (false, Some(_)) => state.patroni_hung_since = None,
            _ => {}
        }
    }

    /// Only for the writer of the open term: everybody else's stopped PostgreSQL is Patroni's affair.
    async fn look_after_stop(&self, cluster: &Cluster, seen: &Seen) {
        let considered = self.considered(cluster.clone());
        let ours =
            term_in_force(&considered).filter(|term| term.value.open_holder() == Some(&self.instance.member));
        let Some(term) = ours.map(|term| term.value.term) else {
            self.state().after_stop = None;
            return;
        };
        let control = control_data::state(&self.instance.bin_dir, &self.instance.data_dir).await;
        let control = control.unwrap_or_else(|error| ControlState::Other(error.to_string()));
        let answering = self.answering_after_stop(&considered, term, &control).await;
        let mut state = self.state();
        // The first look: Patroni's crash recovery writes another word into the file.
        state.ended.get_or_insert(match control {
            ControlState::ShutDown { .. } => RestartEnd::ShutDown,
            _ => RestartEnd::Crashed,
        });
        // A crashed writer's Patroni may be starting it again at this moment: it must have been killed with it. After
        // that the supervisor brings Patroni back, and the shut gate keeps it from starting anything.
        let processes_gone = match control {
            ControlState::ShutDown { .. } => seen.postgres_processes == 0,
            _ => state.killed && seen.postgres_processes == 0,
        };
        state.after_stop = Some(AfterStop { processes_gone, control, answering });
    }
}

/// What a full look brings from the data directory.
struct OnDisk {
    seen: Seen,
    standby_signal: bool,
    data_uuid: Option<String>,
    /// Absent while Patroni does not run: what was seen of it before stands.
    setup: Option<SetupSeen>,
}

/// A name and a UUID; whoever may write into the data directory can write anything.
const DATA_UUID_BYTES_MAX: u64 = 1024;

/// Reads or makes the data directory's own id. It names the member too: pg_rewind and a base backup copy the file of
/// their source, and a copied id is no id. It belongs to PostgreSQL's user: pg_rewind opens every file for writing, and
/// one that it may not write made Patroni throw the whole data directory away (seen in the lab).
/// Nothing is written into it before the cluster is armed.
fn data_uuid(data_dir: &Path, member: &MemberName, may_write: bool) -> Option<String> {
    let file = data_dir.join("holdfast.data_uuid");
    let own = format!("{member} ");
    let found =
        holdfast_proto::read_text(&file, DATA_UUID_BYTES_MAX).ok().filter(|text| text.starts_with(&own));
    let text = found.or_else(|| {
        // Not into an empty directory: Patroni takes one that is not empty for a damaged cluster.
        if !may_write || !data_dir.join("PG_VERSION").exists() {
            return None;
        }
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
        let text = format!("{own}{}", random.trim());
        let owner = data_dir.metadata().ok()?;
        durable::write_owned(&file, text.as_bytes(), Some((owner.uid(), owner.gid()))).ok().map(|()| text)
    })?;
    Some(text.trim_start_matches(&own).to_owned())
}
