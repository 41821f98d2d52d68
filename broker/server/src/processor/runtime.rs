//! What the broker says of itself to `brokerStatus` and `clusterList`.

use super::{Answer, BrokerProcessor, Outcome};
use parking_lot::Mutex;
use sluice_delivery::Counters;
use sluice_protocol::{body::KvTable, record::RecordView};
use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Rates are over at least that long, so that a second look within the same moment shows the same.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// ms since 1970.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

struct Window {
    begun: Instant,
    messages_in: u64,
    messages_out: u64,
    put_rate: f64,
    get_rate: f64,
}

/// Messages a second between two looks.
pub(super) struct Rates {
    started_ms: i64,
    window: Mutex<Window>,
}

impl Rates {
    pub(super) fn new(counters: &Counters) -> Self {
        let window = Window {
            begun: Instant::now(),
            messages_in: counters.messages_in.load(Relaxed),
            messages_out: counters.messages_out.load(Relaxed),
            put_rate: 0.0,
            get_rate: 0.0,
        };
        Self { started_ms: now_ms(), window: Mutex::new(window) }
    }

    /// In and out since the last look.
    fn look(&self, counters: &Counters) -> (f64, f64) {
        let mut window = self.window.lock();
        let elapsed = window.begun.elapsed();
        if elapsed >= WINDOW_MIN {
            let (messages_in, messages_out) = (counters.messages_in.load(Relaxed), counters.messages_out.load(Relaxed));
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            window.put_rate = rate(messages_in, window.messages_in);
            window.get_rate = rate(messages_out, window.messages_out);
            (window.messages_in, window.messages_out, window.begun) = (messages_in, messages_out, Instant::now());
        }
        (window.put_rate, window.get_rate)
    }
}

impl BrokerProcessor {
    pub(super) fn runtime_info(&self) -> Outcome {
        let status = self.delivery.store().status();
        let counters = self.delivery.counters();
        let (put, get) = self.runtime.look(counters);
        let used = 1.0 - status.disk_free_bytes as f64 / (status.disk_total_bytes as f64).max(1.0);
        let first = self.delivery.store().record_at(status.min).ok();
        let earliest = first.and_then(|record| RecordView::parse(&record).map(|record| record.store_timestamp()).ok()).unwrap_or_else(now_ms);
        // The tools expect rates over 10, 60 and 600 seconds; there is one, since the last look.
        let three = |rate: f64| format!("{rate:.2} {rate:.2} {rate:.2}");
        let zero = || "0".to_owned();
        let table = [
            ("brokerActive", status.writable.is_ok().to_string()),
            ("brokerVersion", sluice_protocol::header::VERSION.to_string()),
            ("brokerVersionDesc", concat!("sluice-", env!("CARGO_PKG_VERSION")).to_owned()),
            ("bootTimestamp", self.runtime.started_ms.to_string()),
            ("runtime", format!("[ {} seconds ]", (now_ms() - self.runtime.started_ms) / 1000)),
            ("putTps", three(put)),
            ("getTransferredTps", three(get)),
            ("getTotalTps", three(get)),
            ("getFoundTps", three(get)),
            ("msgPutTotalTodayNow", counters.messages_in.load(Relaxed).to_string()),
            ("msgPutTotalTodayMorning", zero()),
            ("msgPutTotalYesterdayMorning", zero()),
            ("msgGetTotalTodayNow", counters.messages_out.load(Relaxed).to_string()),
            ("msgGetTotalTodayMorning", zero()),
            ("msgGetTotalYesterdayMorning", zero()),
            // Requests are worked on as they come in: no queue, no wait.
            ("sendThreadPoolQueueSize", zero()),
            ("pullThreadPoolQueueSize", zero()),
            ("ackThreadPoolQueueSize", zero()),
            ("queryThreadPoolQueueSize", zero()),
            ("sendThreadPoolQueueHeadWaitTimeMills", zero()),
            ("pullThreadPoolQueueHeadWaitTimeMills", zero()),
            ("ackThreadPoolQueueHeadWaitTimeMills", zero()),
            ("queryThreadPoolQueueHeadWaitTimeMills", zero()),
            ("pageCacheLockTimeMills", zero()),
            ("dispatchBehindBytes", zero()),
            ("timerReadBehind", zero()),
            ("timerOffsetBehind", zero()),
            ("timerCongestNum", zero()),
            ("timerEnqueueTps", "0.0".to_owned()),
            ("timerDequeueTps", "0.0".to_owned()),
            ("earliestMessageTimeStamp", earliest.to_string()),
            ("commitLogMinOffset", status.min.to_string()),
            ("commitLogMaxOffset", status.appended.to_string()),
            ("remainHowManyDataToFlush", format!("{} B", status.flushed.distance_to(status.appended))),
            ("commitLogDiskRatio", format!("{used:.4}")),
            ("commitLogDirCapacity", format!("Total : {} B, Free : {} B.", status.disk_total_bytes, status.disk_free_bytes)),
        ];
        let table = table.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Answer::json(&KvTable { table }))
    }
}
