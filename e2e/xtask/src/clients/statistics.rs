//! What RocketMQ's benchmark programs print, and what of it is good enough.
//!
//! After ten seconds they print a line each report interval. Its rate is the mean of the nine seconds before it, rounded down; a sender's failures are all
//! since its start, a consumer's those of the nine seconds.

use anyhow::{Context, Result, bail, ensure};

/// One of the programs, and where in its lines its numbers stand.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) class: &'static str,
    rate: &'static str,
    failures: &'static [&'static str],
}

pub(super) const PRODUCER: Program =
    Program { class: "org.apache.rocketmq.example.benchmark.Producer", rate: "Send TPS", failures: &["Send Failed", "Response Failed"] };
/// It counts requests, not messages, in "Send TPS" and "Send Failed".
pub(super) const BATCH_PRODUCER: Program =
    Program { class: "org.apache.rocketmq.example.benchmark.BatchProducer", rate: "Send TPS", failures: &["Send Failed", "Send Message Failed"] };
pub(super) const CONSUMER: Program = Program { class: "org.apache.rocketmq.example.benchmark.Consumer", rate: "Consume TPS", failures: &["Consume Fail"] };

/// Lines, one second apart, that one rate is the mean of.
const WINDOW: usize = 9;
/// A line's time is read a moment after its numbers, and on a busy machine the moment is not always short.
const SKEW_MS: u64 = 250;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A statistics line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Time of day, ms.
    pub(super) at: u64,
    /// Requests or messages a second.
    pub(super) rate: u64,
    /// All kinds of failures together.
    pub(super) failed: u64,
}

/// The last line of a producer that had a number of messages to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// Sends that it has tried.
    pub(super) total: u64,
    failed: u64,
}

impl Program {
    /// The statistics in its output; its other lines are passed over.
    pub(super) fn reports(&self, output: &str) -> Result<Vec<Report>> {
        // What comes after the last line's end is still being written.
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter(|line| line.starts_with("Current Time: ")).map(|line| self.report(line)).collect()
    }

    fn report(&self, line: &str) -> Result<Report> {
        let read = || -> Result<_> { Ok(Report { at: time_of_day(line)?, rate: number(line, self.rate)?, failed: self.failed(line)? }) };
        read().with_context(|| format!("reading {line:?}"))
    }

    /// What it says at its end, if it has come to it.
    pub(super) fn completion(&self, output: &str) -> Result<Completion> {
        let line = output.lines().find(|line| line.starts_with("[Complete] ")).context("it printed no line [Complete]")?;
        let read = || -> Result<_> { Ok(Completion { total: number(line, "Send Total")?, failed: self.failed(line)? }) };
        read().with_context(|| format!("reading {line:?}"))
    }

    fn failed(&self, line: &str) -> Result<u64> {
        self.failures.iter().map(|label| number(line, label)).sum()
    }
}

impl Completion {
    /// Everything is sent, and nothing failed.
    pub(super) fn check(&self, wanted: u64) -> Result<()> {
        ensure!(self.total == wanted, "{} were to be sent and {} were", wanted, self.total);
        ensure!(self.failed == 0, "{} of {} sends failed", self.failed, self.total);
        Ok(())
    }
}

/// Nothing failed, and something was done all the time.
pub(super) fn check_busy(reports: &[Report]) -> Result<()> {
    ensure!(!reports.is_empty(), "there is no line of statistics");
    for (number, report) in (1..).zip(reports) {
        ensure!(report.failed == 0, "line {number} tells of {} failures", report.failed);
        ensure!(report.rate > 0, "line {number} has a rate of 0");
    }
    Ok(())
}

/// The same for a program that had nothing to do at first.
pub(super) fn check_busy_once_begun(reports: &[Report]) -> Result<()> {
    let begun = reports.iter().position(|report| report.rate > 0).context("all rates are 0")?;
    if let Some(report) = reports[..begun].iter().find(|report| report.failed > 0) {
        bail!("a line before the first rate tells of {} failures", report.failed);
    }
    check_busy(&reports[begun..])
}

/// At least so much was done. The lines are fewer than the seconds that each of them is the mean of, so the sum of their rates counts nothing twice.
pub(super) fn at_least(reports: &[Report]) -> u64 {
    reports.iter().take(WINDOW).map(|report| report.rate).sum()
}

/// At most so much was done since the first line, if the lines are a second apart: each ninth one's nine seconds begin where the last one's ended.
pub(super) fn at_most(reports: &[Report]) -> u64 {
    let ends: Vec<_> = reports.iter().step_by(WINDOW).collect();
    ends.windows(2).map(|pair| (pair[1].rate + 1) * (since(pair[0].at, pair[1].at) + SKEW_MS) / 1000).sum()
}

/// From one time of day to another that is less than a day later.
fn since(from: u64, to: u64) -> u64 {
    (to + DAY_MS - from) % DAY_MS
}

/// The number behind `label: `.
fn number(line: &str, label: &str) -> Result<u64> {
    let marker = format!("{label}: ");
    let (_, rest) = line.split_once(&marker).with_context(|| format!("{label:?} is missing"))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("{label:?} has no number"))
}

/// From `Current Time: 2026-11-25 21:50:09,600`.
fn time_of_day(line: &str) -> Result<u64> {
    let time = line.split_whitespace().nth(3).context("the time is missing")?;
    let parts: Vec<u64> = time.split([':', ',']).map(str::parse).collect::<Result<_, _>>().with_context(|| format!("{time:?} is no time"))?;
    let [hours, minutes, seconds, millis] = parts[..] else { bail!("{time:?} is no time") };
    Ok(((hours * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the programs of 5.5.0 printed while their broker was killed, the consumer with a rate of failures that it was asked for.
    const PRODUCED: &str = "\
topic: Bp, threadCount: 2, messageSize: 128, keyEnable: false, propertySize: 0, tagCount: 0, traceEnable: false, aclEnable: false, messageQuantity: 0, delayEnable: false, delayLevel: 1, asyncEnable: false
 compressEnable: false, reportInterval: 1000
Current Time: 2026-11-25 21:56:14,921 | Send TPS: 667 | Max RT(ms): 970 | Average RT(ms):   2.933 | Send Failed: 0 | Response Failed: 0
Current Time: 2026-11-25 21:56:15,920 | Send TPS: 804 | Max RT(ms): 970 | Average RT(ms):   2.710 | Send Failed: 0 | Response Failed: 0
Current Time: 2026-11-25 21:56:16,920 | Send TPS: 824 | Max RT(ms): 970 | Average RT(ms):   2.291 | Send Failed: 28 | Response Failed: 0
";
    const BATCHES_PRODUCED: &str = "\
Current Time: 2026-11-25 21:56:15,733 | Send TPS: 434 | Send MPS: 1737 | Max RT(ms): 955 | Average RT(ms):   2.501 | Average Message RT(ms):   0.625 | Send Failed: 0 | Send Message Failed: 0
Current Time: 2026-11-25 21:56:16,733 | Send TPS: 466 | Send MPS: 1865 | Max RT(ms): 955 | Average RT(ms):   2.064 | Average Message RT(ms):   0.516 | Send Failed: 7 | Send Message Failed: 28
";
    const CONSUMED: &str = "\
topic: Bq, threadCount 4, group: Bg, suffix: false, filterType: null, expression: null, msgTraceEnable: false, aclEnable: false, reportInterval: 1000
Consumer Started.
Current Time: 2026-11-25 21:50:10,927 | Consume TPS: 3812 | AVG(B2C) RT(ms): 8437.455 | AVG(S2C) RT(ms): 8436.728 | MAX(B2C) RT(ms): 14614 | MAX(S2C) RT(ms): 14601 | Consume Fail: 0
Current Time: 2026-11-25 21:56:15,959 | Consume TPS: 1791 | AVG(B2C) RT(ms): 868.414 | AVG(S2C) RT(ms): 867.359 | MAX(B2C) RT(ms): 3786 | MAX(S2C) RT(ms): 3753 | Consume Fail: 183
";
    const COMPLETED: &str = "[Complete] Send Total: 20000 | Send TPS: 5085 | Max RT(ms): 328 | Average RT(ms):   0.784 | Send Failed: 0 | Response Failed: 0\n";

    fn at(minute: u64, millis: u64) -> u64 {
        (21 * 60 + minute) * 60 * 1000 + millis
    }

    fn rates(rates: &[u64]) -> Vec<Report> {
        (0..).zip(rates).map(|(second, &rate)| Report { at: at(0, second * 1000), rate, failed: 0 }).collect()
    }

    #[test]
    fn numbers_are_read_from_real_lines() {
        let produced = PRODUCER.reports(PRODUCED).unwrap();
        let expected = [(14_921, 667, 0), (15_920, 804, 0), (16_920, 824, 28)];
        assert_eq!(produced, expected.map(|(millis, rate, failed)| Report { at: at(56, millis), rate, failed }));
        let batches = BATCH_PRODUCER.reports(BATCHES_PRODUCED).unwrap();
        assert_eq!(batches, [(15_733, 434, 0), (16_733, 466, 35)].map(|(millis, rate, failed)| Report { at: at(56, millis), rate, failed }));
        let consumed = CONSUMER.reports(CONSUMED).unwrap();
        assert_eq!(consumed, [Report { at: at(50, 10_927), rate: 3812, failed: 0 }, Report { at: at(56, 15_959), rate: 1791, failed: 183 }]);
    }

    #[test]
    fn a_line_that_is_still_being_written_is_not_read() {
        let cut = PRODUCED.trim_end();
        assert_eq!(PRODUCER.reports(cut).unwrap().len(), 2);
        assert_eq!(PRODUCER.reports("Current Time: 2026").unwrap(), []);
    }

    #[test]
    fn a_line_without_its_numbers_is_an_error() {
        let error = CONSUMER.reports(PRODUCED).unwrap_err();
        assert!(format!("{error:#}").contains("\"Consume TPS\" is missing"), "{error:#}");
        for (from, to) in [("Response Failed: 28", "Response Failed: -1"), ("Response Failed", "Failed Responses"), ("21:56:14,921", "soon")] {
            let changed = PRODUCED.replace("Send Failed: 28 | Response Failed: 0", "Send Failed: 0 | Response Failed: 28").replace(from, to);
            assert!(PRODUCER.reports(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn real_failures_are_refused() {
        let produced = PRODUCER.reports(PRODUCED).unwrap();
        check_busy(&produced[..2]).unwrap();
        assert_eq!(check_busy(&produced).unwrap_err().to_string(), "line 3 tells of 28 failures");
        assert_eq!(check_busy(&BATCH_PRODUCER.reports(BATCHES_PRODUCED).unwrap()).unwrap_err().to_string(), "line 2 tells of 35 failures");
        let consumed = CONSUMER.reports(CONSUMED).unwrap();
        check_busy_once_begun(&consumed[..1]).unwrap();
        assert_eq!(check_busy_once_begun(&consumed).unwrap_err().to_string(), "line 2 tells of 183 failures");
        let responses = PRODUCED.replace("Send Failed: 28 | Response Failed: 0", "Send Failed: 0 | Response Failed: 1");
        assert!(check_busy(&PRODUCER.reports(&responses).unwrap()).is_err());
    }

    #[test]
    fn idling_is_refused() {
        assert!(check_busy(&[]).is_err());
        assert!(check_busy(&rates(&[5, 0, 5])).is_err());
        assert!(check_busy_once_begun(&rates(&[0, 0])).is_err());
        assert!(check_busy_once_begun(&rates(&[0, 5, 0])).is_err());
        check_busy_once_begun(&rates(&[0, 5, 5])).unwrap();
        let mut failing_early = rates(&[0, 5]);
        failing_early[0].failed = 1;
        assert!(check_busy_once_begun(&failing_early).is_err());
    }

    #[test]
    fn a_completion_has_sent_all_without_a_failure() {
        PRODUCER.completion(COMPLETED).unwrap().check(20_000).unwrap();
        assert!(PRODUCER.completion(COMPLETED).unwrap().check(20_001).is_err());
        let failed = COMPLETED.replace("Response Failed: 0", "Response Failed: 3");
        assert_eq!(PRODUCER.completion(&failed).unwrap().check(20_000).unwrap_err().to_string(), "3 of 20000 sends failed");
        assert!(PRODUCER.completion(PRODUCED).is_err());
        // So it ends when it was done within two seconds.
        let short = "[Complete] Send Total: 200 Send Failed: 1 Response Failed: 0\n";
        assert_eq!(PRODUCER.completion(short).unwrap(), Completion { total: 200, failed: 1 });
    }

    #[test]
    fn what_was_done_is_between_the_bounds() {
        // 9000 messages in the second after the first line: the nine lines whose seconds have it in them tell of 1000 a second.
        let burst = rates(&[0, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 0]);
        assert!(at_least(&burst) <= 9000);
        assert!((9000..9500).contains(&at_most(&burst)), "{}", at_most(&burst));
        assert_eq!(at_most(&burst[..9]), 0);
        // Over midnight.
        let night = [Report { at: DAY_MS - 1000, rate: 0, failed: 0 }; 1].into_iter().chain(rates(&[7; 8])).chain([Report { at: 8000, rate: 999, failed: 0 }]);
        assert_eq!(at_most(&night.collect::<Vec<_>>()), 9250);
    }
}
