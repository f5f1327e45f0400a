//! A host's power, and its init: what a boot does first, and who starts the programs that are not running.

use std::rc::Rc;

use super::executor::ms;
use super::ladder::DeadMan;
use super::mutant::Mutant;
use super::world::{Filter, Program, Sim, World};

impl World {
    /// Takes the power away: everything but the disk is gone.
    pub fn power_off(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if !here.powered.replace(false) {
            return;
        }
        self.end_agent(host);
        self.end_instance(host);
        if let Some(guard) = here.guard.borrow_mut().take() {
            self.executor.end(guard.process);
        }
        here.dead_man.set(DeadMan::default());
        here.guards_term.set(0);
        if let Some(init) = here.init.take() {
            self.executor.end(init);
        }
        *here.filter.borrow_mut() = Filter::default();
        here.kept_session.set(None);
        here.crash_in.set(None);
        here.frozen.set(false);
    }

    /// Boots a host: replication is denied first, where the cluster was armed.
    pub fn power_on(self: &Rc<Self>, host: usize) {
        let here = &self.hosts[host];
        if here.powered.replace(true) {
            return;
        }
        here.boots.set(here.boots.get() + 1);
        let init = self.executor.process();
        here.init.set(Some(init));
        self.executor.spawn(init, supervise(Rc::clone(self), host));
    }
}

/// The init of a host: `boot-deny` before everything else, then it starts what is not running.
async fn supervise(world: Sim, host: usize) {
    let here = &world.hosts[host];
    world.pause(ms(200), ms(900)).await;
    let armed = here.state_dir.borrow().remembered.mode == holdfast_types::Mode::Armed;
    let forgets = world.is_mutant(Mutant::PromiseForgottenAtBoot);
    if armed && !forgets {
        *here.filter.borrow_mut() = Filter { installed: true, ..Filter::default() };
    }
    world.start_guard(host);
    loop {
        let now_us = world.executor.now_us();
        let due = |program: Program| now_us >= here.held_down_us[program as usize].get();
        if here.agent.borrow().is_none() && due(Program::Agent) {
            world.pause(ms(50), ms(600)).await;
            world.start_agent(host);
        }
        if here.patroni.borrow().is_none() && due(Program::Patroni) {
            world.pause(ms(50), ms(600)).await;
            world.start_patroni(host);
        }
        world.pause(ms(100), ms(400)).await;
    }
}
