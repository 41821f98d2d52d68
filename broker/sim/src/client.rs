//! A client of the simulation: it finds the master, asks, and gives up in time.

use crate::{
    guests::Intent,
    history::{History, node},
    node::{name, place},
    talk::{Answer, Question, Request, Said, Signed, Talk},
};
use sluice_env::{Env, sim::threads::sleep};
use sluice_history::{By, What};
use std::{collections::VecDeque, io, time::Duration};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Questions that came while the client was waiting for an answer; of more the oldest are forgotten, as by a client that is too slow.
const QUESTIONS_MAX: usize = 1000;

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
    connections: u64,
    intent: Intent,
    asked: VecDeque<Question>,
}

impl Client {
    /// On that machine.
    #[must_use]
    pub fn new(env: Env, process: u32, members: u32, history: &History) -> Self {
        Self {
            process,
            history: history.clone(),
            env,
            members,
            next: process % members,
            open: None,
            connections: 0,
            intent: Intent::default(),
            asked: VecDeque::new(),
        }
    }

    /// Lets whoever kills it know what it was about.
    #[must_use]
    pub fn with_intent(self, intent: &Intent) -> Self {
        Self { intent: intent.clone(), ..self }
    }

    /// An operation begins: what is to be written down if the client does not live to see its end. Comes back with the time.
    #[must_use]
    pub fn begins(&self, if_killed: What) -> u64 {
        let invoke = self.history.now();
        *self.intent.lock() = Some((invoke, if_killed));
        invoke
    }

    /// It has ended.
    pub fn ends(&self, invoke: u64, by: Option<By>, what: What) {
        self.intent.lock().take();
        self.history.op(invoke, self.process, by, what);
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
            match self.hear_answer(patience) {
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
        let answer = talk.say(request, Duration::from_secs(1)).and_then(|()| self.hear_answer(patience));
        self.leave();
        match answer {
            Ok(Signed { node: id, epoch, answer }) => Reply::Answered(By { node: node(id), epoch }, answer),
            Err(_) => Reply::Lost,
        }
    }

    /// How often it has connected: when that has changed, the broker does not know it.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// The next question of the broker that it is connected with, if one comes in that time.
    pub fn listen(&mut self, time: Duration) -> Option<Question> {
        if let Some(question) = self.asked.pop_front() {
            return Some(question);
        }
        let until = self.now() + time;
        match self.open.as_mut().map(|talk| talk.hear::<Said>(time)) {
            Some(Ok(Said::Question(question))) => return Some(question),
            Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {}
            // Nobody speaks, or an answer that nobody waits for.
            Some(_) => self.leave(),
            None => {}
        }
        sleep(until.saturating_sub(self.now()));
        None
    }

    fn now(&self) -> Duration {
        self.env.clock.monotonic().0
    }

    fn hear_answer(&mut self, patience: Duration) -> io::Result<Signed> {
        let until = self.now() + patience;
        loop {
            let left = until.saturating_sub(self.now());
            let talk = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match talk.hear::<Said>(left)? {
                Said::Answer(signed) => return Ok(signed),
                Said::Question(question) => {
                    if self.asked.len() == QUESTIONS_MAX {
                        self.asked.pop_front();
                    }
                    self.asked.push_back(question);
                }
            }
        }
    }

    fn connect(&mut self) -> Option<&mut Talk> {
        if self.open.is_none() {
            let id = 1 + self.next;
            match self.env.net.connect(&place(id), Duration::from_millis(500)) {
                Ok(connection) => {
                    self.connections += 1;
                    self.open = Some(Talk::new(connection));
                }
                Err(error) => {
                    tracing::trace!(to = name(id), %error, "not connected");
                    self.leave();
                }
            }
        }
        self.open.as_mut()
    }

    fn leave(&mut self) {
        self.asked.clear();
        if let Some(open) = self.open.take() {
            open.close();
        }
        self.next = (self.next + 1) % self.members;
    }
}
