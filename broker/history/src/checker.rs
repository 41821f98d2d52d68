//! Goes through a history once and shows each line to each check.

use crate::{
    Event, HistoryError, Outcome, Report, What,
    checks::{Rule, rules},
    world::{Delivery, Match, World},
};

/// Judges a history line by line.
pub struct Checker {
    world: World,
    rules: Vec<Box<dyn Rule>>,
    report: Report,
    line: u32,
}

impl Default for Checker {
    fn default() -> Self {
        Self { world: World::default(), rules: rules(), report: Report::default(), line: 0 }
    }
}

impl Checker {
    /// Takes the next event. Events come in the order of `done`.
    pub fn push(&mut self, event: &Event) -> Result<(), HistoryError> {
        self.line = self.line.checked_add(1).ok_or(HistoryError::Long)?;
        if event.done < self.world.now || event.invoke > event.done {
            return Err(HistoryError::Order { line: self.line });
        }
        let seen = self.world.see(self.line, event);
        self.world.learn(&seen)?;
        self.count(event);
        for rule in &mut self.rules {
            rule.see(&seen, &mut self.world, &mut self.report);
        }
        match &event.what {
            What::Deliver(deliver) => self.matched(&Delivery::new(&seen, deliver)),
            What::Send(sent) => {
                for delivery in self.world.awaited(&seen, sent) {
                    self.matched(&delivery);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, event: &Event) {
        let counts = &mut self.report.counts;
        counts.events += 1;
        match &event.what {
            What::Deliver(_) => counts.delivered += 1,
            What::Send(sent) => match sent.outcome {
                Outcome::Ok => counts.sends_ok += 1,
                Outcome::Failed => counts.sends_failed += 1,
                Outcome::Unknown => counts.sends_unknown += 1,
            },
            _ => {}
        }
    }

    fn matched(&mut self, delivery: &Delivery) {
        let Some((entry, first)) = self.world.deliver(delivery) else { return };
        let found = Match { delivery, entry, first };
        for rule in &mut self.rules {
            rule.matched(&found, &mut self.world, &mut self.report);
        }
    }

    /// The judgement, now that nothing more comes.
    #[must_use]
    pub fn finish(mut self) -> Report {
        for rule in &mut self.rules {
            rule.finish(&self.world, &mut self.report);
        }
        self.report.sort();
        self.report
    }
}
