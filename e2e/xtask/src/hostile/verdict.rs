//! What was seen, and whether it is good enough.

use super::{
    attacks::Attack,
    load::{Phase, RATE},
};
use crate::generator::median;

/// How much longer the slowest hundredth may take while others attack.
const RATIO_MAX: f64 = 2.0;
/// Part of the rate that must have gone through.
const RATE_MIN: f64 = 0.95;

/// One attack's phases.
pub(super) struct Outcome<'a> {
    pub(super) attack: &'a Attack,
    pub(super) baseline: Vec<Phase>,
    pub(super) attacked: Vec<Phase>,
    /// Largest growth of the broker's own memory.
    pub(super) growth: u64,
    /// Connections that the broker ended, for each reason that it should have had.
    pub(super) closed: Vec<(&'static str, f64)>,
}

pub(super) const HEAD: &str = "attack         baseline p99 (median)  p99 under attack (median)  ratio  memory growth  closed";

impl Outcome<'_> {
    /// A line of the table.
    pub(super) fn row(&self) -> String {
        let (before, under) = (quietest(&self.baseline), quietest(&self.attacked));
        let (before_median, under_median) = (middle(&self.baseline), middle(&self.attacked));
        let closed: Vec<_> = self.closed.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let ratio = under / before.max(1.0);
        let growth = self.growth >> 20;
        let latencies = format!("{before:>9.0} ({before_median:>5.0}) us  {under:>13.0} ({under_median:>5.0}) us");
        format!("{:<14} {latencies}  {ratio:>5.2}  {growth:>9} MiB  {}", self.attack.name, closed.join(", "))
    }

    /// Every rule that was broken; none is good.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let (before, under) = (quietest(&self.baseline), quietest(&self.attacked));
        let allowed = before * RATIO_MAX;
        if under > allowed && middle(&self.attacked) > middle(&self.baseline) * RATIO_MAX {
            complaints.push(format!("the well-behaved client's p99 is {under:.0} us; {allowed:.0} us are allowed ({before:.0} us without the attack)"));
        }
        for phase in self.baseline.iter().chain(&self.attacked) {
            if let Some(errors) = &phase.errors {
                complaints.push(format!("the well-behaved client got errors: {errors}"));
            }
            if phase.rate < RATE * RATE_MIN {
                complaints.push(format!("the well-behaved client got {:.0} messages/s through of {RATE}", phase.rate));
            }
        }
        if self.growth > self.attack.growth_max {
            complaints.push(format!("the broker's own memory grew by {} MiB; {} MiB are allowed", self.growth >> 20, self.attack.growth_max >> 20));
        }
        for (reason, _) in self.closed.iter().filter(|(_, count)| *count < 1.0) {
            complaints.push(format!("the broker ended no connection for {reason}: it put up with the attack, or there was none"));
        }
        complaints.into_iter().map(|complaint| format!("{}: {complaint}", self.attack.name)).collect()
    }
}

/// The p99 of the quietest phase. What else goes on in the machine only ever adds, and doubles the p99 of about every second phase; what an attack does to others it does
/// in each. So what is no harm shows in the quietest phases, unless one without an attack was luckier than any other; then it shows in the medians.
fn quietest(phases: &[Phase]) -> f64 {
    phases.iter().map(|phase| phase.p99_us).fold(f64::INFINITY, f64::min)
}

/// The median, to be looked at.
fn middle(phases: &[Phase]) -> f64 {
    let all: Vec<f64> = phases.iter().map(|phase| phase.p99_us).collect();
    median(&all, |p99| *p99).unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::{super::attacks::ATTACKS, *};

    fn phases(p99: &[f64]) -> Vec<Phase> {
        p99.iter().map(|&p99_us| Phase { p99_us, rate: RATE, errors: None }).collect()
    }

    fn outcome(baseline: &[f64], attacked: &[f64]) -> Outcome<'static> {
        Outcome { attack: &ATTACKS[0], baseline: phases(baseline), attacked: phases(attacked), growth: 0, closed: vec![("partial_frame", 3.0)] }
    }

    #[test]
    fn an_attack_is_good_whose_quietest_phase_or_median_is_within_twice() {
        assert!(outcome(&[800.0, 900.0, 1000.0], &[8000.0, 1600.0, 90_000.0]).complaints().is_empty());
        assert!(outcome(&[100.0, 900.0, 1000.0], &[800.0, 1600.0, 90_000.0]).complaints().is_empty());
        assert_eq!(outcome(&[100.0, 900.0, 1000.0], &[800.0, 1900.0, 90_000.0]).complaints().len(), 1);
        assert_eq!(outcome(&[800.0], &[1601.0]).complaints().len(), 1);
    }

    #[test]
    fn errors_growth_a_lost_rate_and_an_attack_that_nobody_noticed_are_told() {
        let mut bad = outcome(&[100.0], &[100.0]);
        bad.growth = bad.attack.growth_max + 1;
        bad.closed = vec![("partial_frame", 0.0)];
        bad.attacked[0].rate = RATE / 2.0;
        bad.attacked[0].errors = Some("{\"closed\":1}".into());
        let complaints = bad.complaints();
        assert_eq!(complaints.len(), 4, "{complaints:?}");
        assert!(complaints.iter().all(|complaint| complaint.starts_with("slow-loris: ")));
    }

    #[test]
    fn no_measurement_is_no_success() {
        assert!(quietest(&[]).is_infinite());
        assert!(outcome(&[100.0], &[]).complaints()[0].contains("inf"));
    }
}
