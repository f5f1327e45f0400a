//! The program: one loop over a clock, a socket and at most sixteen duties.
//!
//! A turn never waits for anything but its one `poll`. Deadlines come first, then the watchdog, then at most one packet
//! of each connection: no peer can keep a deadline waiting by what it sends.

mod duty;
mod harden;
mod instance;
mod notify;
mod peers;
mod proof;
mod say;
mod system;
mod target;
mod text;
mod watchdog;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::wire::{
    INSTANCES_MAX, Name, Phase, REQUEST_BYTES, Refusal, Reply, Request, decode_request, serial_of,
};
use duty::Duty;
use instance::Instance;
use notify::Manager;
use peers::{PEERS_MAX, Peer, Received};
use proof::Former;
use say::say;
use system::boottime_ns;
use target::{Processes, Target, may_be_postmaster};
use watchdog::{Food, Watchdog};

/// How the guard is called.
#[derive(Debug)]
pub struct Options {
    /// Where it listens.
    pub socket: PathBuf,
    /// Where the proofs are kept; a tmpfs.
    pub state: PathBuf,
    /// The watchdog's device.
    pub watchdog: Option<PathBuf>,
    /// After how many seconds without food the watchdog resets the host.
    pub watchdog_timeout_s: i32,
    /// Kills one by one, as on a kernel without `cgroup.kill`.
    pub by_pid: bool,
}

/// Why the guard did not start.
#[derive(Debug)]
pub struct StartError {
    what: String,
    source: std::io::Error,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for StartError {}

fn at<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> StartError {
    move |source| StartError { what: what.into(), source: source.into() }
}

/// Runs until it is told to end.
pub fn run(options: &Options) -> Result<(), StartError> {
    harden::harden();
    let mut guard = Guard::start(options)?;
    guard.manager.ready();
    while !guard.may_end() {
        guard.turn();
    }
    guard.end();
    Ok(())
}

struct Guard {
    by_pid: bool,
    listener: OwnedFd,
    timer: OwnedFd,
    signals: OwnedFd,
    state: OwnedFd,
    processes: Processes,
    peers: [Option<Peer>; PEERS_MAX],
    instances: [Option<Instance>; INSTANCES_MAX],
    former: [Option<Former>; INSTANCES_MAX],
    watchdog: Watchdog,
    manager: Manager,
    told_to_end: bool,
}

impl Guard {
    fn start(options: &Options) -> Result<Self, StartError> {
        let shown = |path: &PathBuf| path.display().to_string();
        let path =
            |path: &PathBuf| CString::new(path.as_os_str().as_encoded_bytes()).map_err(at(shown(path)));
        let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = open(path(&options.state)?.as_c_str(), folder, Mode::empty())
            .map_err(at(format!("the folder of the proofs {}", shown(&options.state))))?;
        // Two guards would both feed the watchdog, each knowing half of the duties.
        flock(&state, FlockOperation::NonBlockingLockExclusive)
            .map_err(at(format!("another guard uses {}", shown(&options.state))))?;
        let former = proof::former(&options.state);
        let listener = peers::open(&path(&options.socket)?)
            .map_err(at(format!("the socket {}", shown(&options.socket))))?;
        let timer_flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let guard = Self {
            by_pid: options.by_pid,
            listener,
            timer: timerfd_create(TimerfdClockId::Boottime, timer_flags).map_err(at("a timer"))?,
            signals: system::signal_descriptor().map_err(at("a descriptor of signals"))?,
            state,
            processes: Processes::open().map_err(at("/proc"))?,
            peers: [const { None }; PEERS_MAX],
            instances: [const { None }; INSTANCES_MAX],
            former,
            watchdog: Watchdog::new(
                options.watchdog.as_ref().map(path).transpose()?,
                options.watchdog_timeout_s,
            ),
            manager: Manager::from_environment(),
            told_to_end: false,
        };
        for owed in former.iter().flatten().filter(|former| former.owed) {
            say(format_args!(
                "{}: a former guard was armed in term {}; its agent has not come back yet",
                owed.name.as_str(),
                owed.term
            ));
        }
        Ok(guard)
    }

    fn turn(&mut self) {
        let now_ns = self.do_what_is_due();
        let food = self.food(now_ns);
        let wishes = [self.watchdog.turn(now_ns, food), self.manager.turn(now_ns)];
        let duties = self.instances.iter().flatten().filter_map(Instance::next_ns);
        self.set_timer(duties.chain(wishes.into_iter().flatten()).min());
        let (heard, signalled, connecting) = self.wait();
        let now_ns = self.do_what_is_due();
        if signalled {
            self.told_to_end = true;
        }
        for place in (0..PEERS_MAX).filter(|place| heard[*place]) {
            if !self.listen_to(place) {
                self.peers[place] = None;
            }
        }
        if connecting {
            self.welcome(now_ns);
        }
    }

    /// Kills; returns the time at which it looked.
    fn do_what_is_due(&mut self) -> u64 {
        let now_ns = boottime_ns();
        for instance in self.instances.iter_mut().flatten() {
            instance.turn(now_ns, &self.processes);
        }
        now_ns
    }

    /// What all duties together allow the watchdog.
    fn food(&self, now_ns: u64) -> Food {
        let owed_before = self.former.iter().flatten().any(|former| former.owed);
        let mut needed = false;
        for instance in self.instances.iter().flatten() {
            match instance.phase() {
                Phase::Killing => return Food::Withhold,
                Phase::Armed if instance.next_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns) => {
                    return Food::Withhold;
                }
                Phase::Armed | Phase::Killed => needed = true,
                Phase::Idle => {}
            }
        }
        match (owed_before, needed) {
            (true, _) => Food::Withhold,
            (false, true) => Food::Give,
            (false, false) => Food::NotNeeded,
        }
    }

    /// On `CLOCK_BOOTTIME`, because `poll` does not count the time of a suspend.
    fn set_timer(&self, at_ns: Option<u64>) {
        // Zero would stop the timer; a moment that has passed fires at once.
        let at_ns = at_ns.map_or(0, |at_ns| at_ns.max(1));
        let at = Timespec {
            tv_sec: i64::try_from(at_ns / 1_000_000_000).expect("584 years of nanoseconds fit"),
            tv_nsec: i64::try_from(at_ns % 1_000_000_000).expect("less than a second fits"),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)
            .expect("a timer of ours takes every time that is in range");
    }

    /// Waits for anything; tells which peers spoke, whether a signal came, and whether somebody connects.
    fn wait(&self) -> ([bool; PEERS_MAX], bool, bool) {
        let watch = |place: usize| match self.peers.get(place) {
            Some(Some(peer)) => PollFd::new(&peer.socket, PollFlags::IN),
            // A free place: nothing is asked of the timer a second time.
            _ => PollFd::new(&self.timer, PollFlags::empty()),
        };
        let fixed = [&self.timer, &self.signals, &self.listener];
        let mut watched: [PollFd<'_>; 3 + PEERS_MAX] = std::array::from_fn(|at| match fixed.get(at) {
            Some(descriptor) => PollFd::new(*descriptor, PollFlags::IN),
            None => watch(at - fixed.len()),
        });
        // Interrupted is as good as nothing: the loop looks at the clock again.
        let _ = poll(&mut watched, None);
        let has = |at: usize| !watched[at].revents().is_empty();
        if has(0) {
            // Takes the expiration; that it has come is known.
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        }
        (std::array::from_fn(|place| has(3 + place) && self.peers[place].is_some()), has(1), has(2))
    }

    /// Takes one connection. When all places are taken, the peer that has been silent for the longest time goes: a
    /// successor must not be kept out by a hung agent.
    fn welcome(&mut self, now_ns: u64) {
        let Some(peer) = Peer::accept(&self.listener, now_ns) else { return };
        let quietest = |place: &usize| self.peers[*place].as_ref().map_or(0, |peer| peer.heard_ns);
        let place = (0..PEERS_MAX).min_by_key(quietest).expect("there are places");
        self.peers[place] = Some(peer);
    }

    /// One packet of this peer; `false`: the connection is over.
    fn listen_to(&mut self, place: usize) -> bool {
        let Some(peer) = &mut self.peers[place] else { return false };
        peer.heard_ns = boottime_ns();
        let (bytes, length, descriptor) = match peer.receive() {
            Received::Closed => return false,
            Received::Nothing => return true,
            Received::Packet { bytes, length, descriptor } => (bytes, length, descriptor),
        };
        let packet = &bytes[..length.min(REQUEST_BYTES + 1)];
        let (serial, reply) = match decode_request(packet) {
            Some((serial, request)) => (serial, self.handle(&request, descriptor)),
            None => (serial_of(packet), Reply::Refused(Refusal::Malformed)),
        };
        self.peers[place].as_ref().is_some_and(|peer| peer.answer(serial, &reply))
    }

    fn handle(&mut self, request: &Request, descriptor: Option<OwnedFd>) -> Reply {
        // Each order is judged by the clock of its own moment.
        let now_ns = boottime_ns();
        let postmaster = match *request {
            Request::Register { postmaster, .. } | Request::Extend { postmaster, .. } => postmaster,
            _ => None,
        };
        if !may_be_postmaster(postmaster) {
            return Reply::Refused(Refusal::BadProcess);
        }
        let done = match *request {
            Request::Register { name, port, postmaster } => {
                self.register(now_ns, name, port, postmaster, descriptor).map(|()| name)
            }
            Request::Extend { name, term, deadline_ns, postmaster } => self
                .order(&name, |instance| instance.extend(now_ns, term, deadline_ns, postmaster))
                .map(|()| name),
            Request::Release { name, term } => {
                self.order(&name, |instance| instance.release(now_ns, term)).map(|()| name)
            }
            Request::Query { name } => Ok(name),
            Request::StandDown => {
                self.stand_down();
                return Reply::Absent;
            }
            Request::QueryPlace { place } => {
                let place = self.instances.get(usize::from(place)).and_then(Option::as_ref);
                return place
                    .map_or(Reply::Absent, |instance| Reply::State(instance.state(self.watchdog.state())));
            }
        };
        match done {
            Err(refusal) => Reply::Refused(refusal),
            Ok(name) => match self.find(&name) {
                Some(instance) => Reply::State(instance.state(self.watchdog.state())),
                None => Reply::Absent,
            },
        }
    }

    fn find(&self, name: &Name) -> Option<&Instance> {
        self.instances.iter().flatten().find(|instance| instance.name == *name)
    }

    /// An order to a known instance. Once it is followed, what a former guard owed is ours.
    fn order(
        &mut self,
        name: &Name,
        follow: impl FnOnce(&mut Instance) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut known = self.instances.iter_mut().flatten();
        let instance = known.find(|instance| instance.name == *name).ok_or(Refusal::UnknownInstance)?;
        follow(instance)?;
        for former in
            self.former.iter_mut().filter(|former| former.is_some_and(|former| former.name == *name))
        {
            *former = None;
        }
        Ok(())
    }

    /// A person has taken Holdfast out of the way: nothing that was asked before is owed, not even by a former guard.
    fn stand_down(&mut self) {
        self.instances.iter_mut().flatten().for_each(Instance::stand_down);
        let left_ticking = self.former.iter().flatten().any(|former| former.owed);
        for former in std::mem::take(&mut self.former).into_iter().flatten() {
            if self.find(&former.name).is_none()
                && let Some(file) = proof::create(&self.state, &former.name)
            {
                proof::write(&file, &former.name, 0, &Duty::new(former.term));
            }
        }
        self.watchdog.stand_down(left_ticking);
        say(format_args!(
            "told to stand down: nothing is guarded on this host until an agent asks for it again"
        ));
    }

    fn register(
        &mut self,
        now_ns: u64,
        name: Name,
        port: u16,
        postmaster: Option<i32>,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Refusal> {
        let mut target = Target::new(descriptor.ok_or(Refusal::NotACgroup)?, self.by_pid)?;
        target.place(postmaster);
        if let Some(known) = self.instances.iter_mut().flatten().find(|instance| instance.name == name) {
            return known.register(now_ns, port, target);
        }
        let is_free =
            |place: &Option<Instance>| place.as_ref().is_none_or(|known| known.phase() == Phase::Idle);
        let empty = self.instances.iter().position(Option::is_none);
        let place = empty.or_else(|| self.instances.iter().position(is_free)).ok_or(Refusal::Full)?;
        let former = self.former.iter().flatten().find(|former| former.name == name);
        let term = former.map_or(0, |former| former.term);
        let instance = Instance::new(name, port, target, term, proof::create(&self.state, &name));
        // What a former guard owed stays written until it is ours.
        if former.is_none_or(|former| !former.owed) {
            instance.write();
        }
        self.instances[place] = Some(instance);
        Ok(())
    }

    /// A kill that has begun is ended first.
    fn may_end(&self) -> bool {
        self.told_to_end && self.instances.iter().flatten().all(|instance| instance.phase() != Phase::Killing)
    }

    /// Lets go of the watchdog only when nothing is owed: else it resets the host, unless the next guard feeds it in time.
    fn end(&mut self) {
        let now_ns = boottime_ns();
        let armed = self.instances.iter().flatten().any(|instance| instance.phase() == Phase::Armed);
        if armed {
            say(format_args!("told to end while armed: the watchdog, if there is one, is left ticking"));
        } else if self.food(now_ns) != Food::Withhold {
            self.watchdog.turn(now_ns, Food::NotNeeded);
        }
    }
}
