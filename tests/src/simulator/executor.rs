//! Simulated time: one queue of events, and the tasks of processes that can be frozen, thawed and ended between two steps.
//!
//! Tasks are ordinary futures; the only thing they wait for is this executor. The order of everything is decided by the
//! time of an event and, at the same time, by the order in which it was asked for, so a run depends on its seed alone.
//! It reads no clock and starts no thread.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Milliseconds as microseconds, in which all simulated time is counted.
pub const fn ms(milliseconds: u64) -> u64 {
    milliseconds * 1_000
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A simulated process: everything that is killed, stopped and continued together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProcessState {
    Runs,
    Frozen,
    Ended,
}

struct Process {
    state: ProcessState,
    tasks: Vec<usize>,
    /// Woken while it was frozen.
    deferred: Vec<usize>,
}

struct Task {
    process: ProcessId,
    future: Option<TaskFuture>,
    queued: bool,
}

enum Due {
    Wake(usize),
    Call(Box<dyn FnOnce()>),
}

struct Event {
    at_us: u64,
    number: u64,
    due: Due,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    /// The earliest is the greatest: the heap gives its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.number).cmp(&(self.at_us, self.number))
    }
}

/// The queue, the clock and the tasks.
#[derive(Default)]
pub struct Executor {
    now_us: Cell<u64>,
    numbers: Cell<u64>,
    events: RefCell<BinaryHeap<Event>>,
    ready: RefCell<VecDeque<usize>>,
    processes: RefCell<Vec<Process>>,
    tasks: RefCell<Vec<Task>>,
    current: Cell<Option<usize>>,
}

impl Executor {
    /// Simulated microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// A new process without tasks; it counts as alive until it is ended.
    pub fn process(&self) -> ProcessId {
        let mut processes = self.processes.borrow_mut();
        processes.push(Process { state: ProcessState::Runs, tasks: Vec::new(), deferred: Vec::new() });
        ProcessId(processes.len() - 1)
    }

    /// Starts a task in a process; nothing happens if that has ended.
    pub fn spawn(&self, process: ProcessId, future: impl Future<Output = ()> + 'static) {
        let mut processes = self.processes.borrow_mut();
        let owner = &mut processes[process.0];
        if owner.state == ProcessState::Ended {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(Task { process, future: Some(Box::pin(future)), queued: false });
        let task = tasks.len() - 1;
        owner.tasks.push(task);
        drop((processes, tasks));
        self.wake(task);
    }

    /// Whether a process has not ended; a frozen one lives.
    pub fn lives(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process.0].state != ProcessState::Ended
    }

    /// Whether a process is stopped by a signal or a freezer.
    pub fn is_frozen(&self, process: ProcessId) -> bool {
        self.processes.borrow()[process.0].state == ProcessState::Frozen
    }

    /// Ends a process at once: its tasks are dropped between two steps.
    pub fn end(&self, process: ProcessId) {
        let tasks = {
            let mut processes = self.processes.borrow_mut();
            let ended = &mut processes[process.0];
            ended.state = ProcessState::Ended;
            std::mem::take(&mut ended.tasks)
        };
        // Dropped outside of the borrow: a future may hold what wakes others when it goes.
        let futures: Vec<_> = tasks.iter().map(|task| self.tasks.borrow_mut()[*task].future.take()).collect();
        drop(futures);
    }

    /// Stops a process where it is; what wakes it waits.
    pub fn freeze(&self, process: ProcessId) {
        let mut processes = self.processes.borrow_mut();
        if processes[process.0].state == ProcessState::Runs {
            processes[process.0].state = ProcessState::Frozen;
        }
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self, process: ProcessId) {
        let deferred = {
            let mut processes = self.processes.borrow_mut();
            let thawed = &mut processes[process.0];
            if thawed.state != ProcessState::Frozen {
                return;
            }
            thawed.state = ProcessState::Runs;
            std::mem::take(&mut thawed.deferred)
        };
        for task in deferred {
            self.wake(task);
        }
    }

    /// Runs `call` after `delay_us`, whatever has become of who asked for it: a message that is on its way.
    pub fn after(&self, delay_us: u64, call: impl FnOnce() + 'static) {
        self.push(self.now_us() + delay_us, Due::Call(Box::new(call)));
    }

    fn push(&self, at_us: u64, due: Due) {
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        self.events.borrow_mut().push(Event { at_us, number, due });
    }

    fn wake(&self, task: usize) {
        let mut tasks = self.tasks.borrow_mut();
        if tasks[task].future.is_some() && !tasks[task].queued {
            tasks[task].queued = true;
            self.ready.borrow_mut().push_back(task);
        }
    }

    /// Does the next thing there is to do, not later than `until_us`; `false` when there is nothing more.
    pub fn step(&self, until_us: u64) -> bool {
        let ready = self.ready.borrow_mut().pop_front();
        if let Some(task) = ready {
            self.poll(task);
            return true;
        }
        let due = {
            let mut events = self.events.borrow_mut();
            match events.peek() {
                Some(event) if event.at_us <= until_us => events.pop(),
                _ => None,
            }
        };
        let Some(event) = due else {
            self.now_us.set(self.now_us().max(until_us));
            return false;
        };
        self.now_us.set(self.now_us().max(event.at_us));
        match event.due {
            Due::Wake(task) => self.wake(task),
            Due::Call(call) => call(),
        }
        true
    }

    fn poll(&self, number: usize) {
        let future = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[number];
            task.queued = false;
            let mut processes = self.processes.borrow_mut();
            let owner = &mut processes[task.process.0];
            if owner.state == ProcessState::Frozen {
                owner.deferred.push(number);
                return;
            }
            task.future.take()
        };
        // Its process may have ended since it was woken.
        let Some(mut future) = future else { return };
        self.current.set(Some(number));
        let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.current.set(None);
        let process = self.tasks.borrow()[number].process;
        if poll.is_pending() && self.lives(process) {
            self.tasks.borrow_mut()[number].future = Some(future);
        }
    }

    /// Waits for a time.
    pub fn sleep(self: &Rc<Self>, for_us: u64) -> Sleep {
        Sleep { executor: Rc::clone(self), until_us: self.now_us() + for_us, asked: false }
    }

    /// Gives `work` at most `for_us`; `None` when that was not enough.
    pub async fn timeout<T>(self: &Rc<Self>, for_us: u64, work: impl Future<Output = T>) -> Option<T> {
        let mut sleep = self.sleep(for_us);
        let mut work = Box::pin(work);
        std::future::poll_fn(move |context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            Pin::new(&mut sleep).poll(context).map(|()| None)
        })
        .await
    }

    /// Forgets every task and event, so that nothing holds the world any more.
    pub fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop((tasks, events));
    }
}

/// Both, side by side in one task.
pub async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(move |context| {
        if first.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(context)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(context)
        {
            second = Some(done);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// See [`Executor::sleep`].
pub struct Sleep {
    executor: Rc<Executor>,
    until_us: u64,
    asked: bool,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.executor.now_us() >= self.until_us {
            return Poll::Ready(());
        }
        if !self.asked {
            self.asked = true;
            let task = self.executor.current.get().expect("only a task of this executor waits");
            self.executor.push(self.until_us, Due::Wake(task));
        }
        Poll::Pending
    }
}

/// Something that others wait for: counts how often it happened.
pub struct Signal {
    executor: Rc<Executor>,
    count: Cell<u64>,
    waiting: RefCell<Vec<usize>>,
}

impl Signal {
    /// One that has not happened.
    pub fn new(executor: &Rc<Executor>) -> Rc<Self> {
        Rc::new(Self { executor: Rc::clone(executor), count: Cell::new(0), waiting: RefCell::default() })
    }

    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// It happens: wakes everybody who waits.
    pub fn raise(&self) {
        self.count.set(self.count.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for task in waiting {
            self.executor.wake(task);
        }
    }
}

/// Waits until one of the signals has happened more often than was seen, or the time is over.
pub async fn wait(executor: &Rc<Executor>, for_us: u64, signals: &[(&Rc<Signal>, u64)]) {
    let mut sleep = executor.sleep(for_us);
    std::future::poll_fn(|context| {
        if signals.iter().any(|(signal, seen)| signal.count() > *seen) {
            return Poll::Ready(());
        }
        let task = executor.current.get().expect("only a task of this executor waits");
        for (signal, _) in signals {
            let mut waiting = signal.waiting.borrow_mut();
            if !waiting.contains(&task) {
                waiting.push(task);
            }
        }
        Pin::new(&mut sleep).poll(context)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(executor: &Rc<Executor>, until_ms: u64) {
        while executor.step(ms(until_ms)) {}
    }

    #[test]
    fn a_frozen_process_goes_on_where_it_was_and_an_ended_one_does_not() {
        let executor = Rc::new(Executor::default());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let count = |name: &'static str| {
            let (executor, seen) = (Rc::clone(&executor), Rc::clone(&seen));
            async move {
                loop {
                    executor.sleep(ms(10)).await;
                    seen.borrow_mut().push((name, executor.now_us() / 1_000));
                }
            }
        };
        let (frozen, ended) = (executor.process(), executor.process());
        executor.spawn(frozen, count("frozen"));
        executor.spawn(ended, count("ended"));
        run(&executor, 15);
        executor.freeze(frozen);
        executor.end(ended);
        run(&executor, 45);
        assert!(executor.lives(frozen) && !executor.lives(ended));
        executor.thaw(frozen);
        run(&executor, 60);
        assert_eq!(*seen.borrow(), [("frozen", 10), ("ended", 10), ("frozen", 45), ("frozen", 55)]);
        executor.clear();
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let executor = Rc::new(Executor::default());
        let result = Rc::new(Cell::new(Some(7)));
        let process = executor.process();
        let (inner, out) = (Rc::clone(&executor), Rc::clone(&result));
        executor.spawn(process, async move {
            out.set(inner.timeout(ms(5), inner.sleep(ms(6))).await.map(|()| 1));
        });
        run(&executor, 10);
        assert_eq!(result.get(), None);
        executor.clear();
    }
}
