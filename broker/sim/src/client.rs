//! A client of the simulation: it finds the master, asks, and gives up in time.

use crate::{
    history::{History, node},
    node::{name, place},
    talk::{Answer, Request, Signed, Talk},
};
use sluice_env::{Env, sim::threads::sleep};
use sluice_history::By;
use std::time::Duration;

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A master has answered.
    Answered(By, Answer),
    /// Nobody is known to have taken it.
    Nobody,
    /// It was sent, and no answer came.
    Lost,
}

/// A client.
pub struct Client {
    /// Its number in the history.
    pub process: u32,
    /// The history.
    pub history: History,
    env: Env,
    members: u32,
    next: u32,
    open: Option<Talk>,
}

impl Client {
    /// On that machine.
    #[must_use]
    pub fn new(env: Env, process: u32, members: u32, history: &History) -> Self {
        Self { process, history: history.clone(), env, members, next: process % members, open: None }
    }

    /// A number below `below`.
    #[must_use]
    pub fn random(&self, below: u64) -> u64 {
        self.env.rng.next_u64() % below
    }

    /// The machine's calendar.
    #[must_use]
    pub fn wall_nanos(&self) -> u64 {
        u64::try_from(self.env.clock.wall().0).unwrap_or_default().saturating_mul(1_000_000)
    }

    /// Asks whoever is master.
    pub fn ask(&mut self, request: &Request, patience: Duration) -> Reply {
        for _ in 0..self.members {
            let Some(talk) = self.connect() else { continue };
            if talk.say(request, Duration::from_secs(1)).is_err() {
                self.leave();
                return Reply::Lost;
            }
            match talk.hear::<Signed>(patience) {
                Ok(Signed { epoch, answer: Answer::Refused { is_unknown: false, why }, .. }) if why.starts_with("not master") => {
                    tracing::trace!(epoch, why, "asked the wrong one");
                    self.leave();
                }
                Ok(Signed { node: id, epoch, answer }) => return Reply::Answered(By { node: node(id), epoch }, answer),
                Err(_) => {
                    self.leave();
                    return Reply::Lost;
                }
            }
        }
        sleep(Duration::from_millis(100));
        Reply::Nobody
    }

    /// Asks that member alone, over a connection of its own.
    pub fn ask_of(&mut self, index: u32, request: &Request, patience: Duration) -> Reply {
        self.leave();
        self.next = index;
        let Some(talk) = self.connect() else { return Reply::Nobody };
        let answer = talk.say(request, Duration::from_secs(1)).and_then(|()| talk.hear::<Signed>(patience));
        self.leave();
        match answer {
            Ok(Signed { node: id, epoch, answer }) => Reply::Answered(By { node: node(id), epoch }, answer),
            Err(_) => Reply::Lost,
        }
    }

    fn connect(&mut self) -> Option<&mut Talk> {
        if self.open.is_none() {
            let id = 1 + self.next;
            match self.env.net.connect(&place(id), Duration::from_millis(500)) {
                Ok(connection) => self.open = Some(Talk::new(connection)),
                Err(error) => {
                    tracing::trace!(to = name(id), %error, "not connected");
                    self.leave();
                }
            }
        }
        self.open.as_mut()
    }

    fn leave(&mut self) {
        if let Some(open) = self.open.take() {
            open.close();
        }
        self.next = (self.next + 1) % self.members;
    }
}
