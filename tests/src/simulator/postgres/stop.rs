//! A planned stop: no new transaction, a shutdown checkpoint, and the end once every standby that streams has it.

use std::rc::Rc;

use crate::simulator::executor::{ms, wait};
use crate::simulator::world::World;

impl World {
    /// `SIGINT` to the postmaster of a host, a fast shutdown; one that stops already goes on with it.
    pub fn shut_down(self: &Rc<Self>, host: usize) {
        let Some(postmaster) = self.hosts[host].postmaster() else { return };
        if postmaster.live.borrow().stopping {
            return;
        }
        let primary = postmaster.is_primary();
        {
            let mut live = postmaster.live.borrow_mut();
            (live.stopping, live.accepts) = (true, false);
        }
        self.say(&format_args!("{}.postgres", self.hosts[host].member), &"is told to stop");
        postmaster.changed.raise();
        let (world, process) = (Rc::clone(self), postmaster.process);
        self.executor.spawn(process, async move {
            world.pause(ms(5), ms(60)).await;
            if primary {
                let checkpoint = world.next_number();
                world.hosts[host].data.borrow_mut().wal.push(checkpoint);
                postmaster.changed.raise();
                let length = world.hosts[host].data.borrow().wal.len();
                loop {
                    let seen = postmaster.changed.count();
                    // A walsender that is not heard is given up in the end.
                    if world.heard_standbys(&postmaster).values().all(|flushed| *flushed >= length) {
                        break;
                    }
                    wait(&world.executor, ms(100), &[(&postmaster.changed, seen)]).await;
                }
            }
            world.pause(ms(1), ms(10)).await;
            let (later, number) = (Rc::clone(&world), postmaster.number);
            world.executor.after(0, move || {
                if later.hosts[host].postmaster().is_some_and(|one| one.number == number) {
                    later.end_postgres(host, true);
                }
            });
        });
    }
}
