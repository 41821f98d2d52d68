//! What one client has asked and has no answer to.

use super::{FORWARDED, MASTER_WAIT, ONEWAY};
use crate::net::Permit;
use bytes::{Bytes, BytesMut};
use sluice_protocol::{EncodeError, Frame, Header, RequestCode as Code, WireStr, encode_frame, headers::pull_flag};
use std::collections::{HashMap, VecDeque};
use tokio::time::Instant;

/// How often a read is handed on again without an answer: what brings a master's connection down each time must come to an end.
const REPEATS_MAX: u32 = 8;
const SUSPEND: &str = "suspendTimeoutMillis";
const SYS_FLAG: &str = "sysFlag";

/// A frame that waits.
pub(super) struct Waiting {
    pub(super) frame: Frame,
    /// A pull that a master has got has none: it may be held for long, and keeps next to nothing.
    pub(super) permit: Option<Permit>,
    pub(super) terms: Terms,
}

/// How long and for whom a frame waits.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Since when it counts against its own time to be held.
    since: Instant,
    /// Until when it waits for a master.
    pub(super) until: Instant,
    /// Another member has handed it on: it is for this broker, or for nobody.
    pub(super) is_from_member: bool,
    repeats: u32,
}

impl Waiting {
    pub(super) fn new(frame: Frame, permit: impl Into<Option<Permit>>) -> Self {
        let (since, is_from_member) = (Instant::now(), frame.header.ext.get(FORWARDED).is_some());
        let terms = Terms { since, until: since + MASTER_WAIT, is_from_member, repeats: 0 };
        Self { frame, permit: permit.into(), terms }
    }

    pub(super) fn header(&self) -> &Header {
        &self.frame.header
    }

    fn code(&self) -> Option<Code> {
        self.frame.header.request_code()
    }

    fn is_pull(&self) -> bool {
        matches!(self.code(), Some(Code::PullMessage | Code::LitePullMessage))
    }

    /// Its head and body as the master gets them. Also what wants no answer gets one there: else nobody would know whether it was carried out.
    fn encode(&mut self, opaque: i32) -> Result<(Bytes, Bytes), EncodeError> {
        let header = &mut self.frame.header;
        let (own_opaque, own_flag, mark) = (header.opaque, header.flag, if header.is_oneway() { ONEWAY } else { "1" });
        header.opaque = opaque;
        header.want_answer();
        let mut head = BytesMut::new();
        let encoded = encode_forwarded(&mut self.frame, mark, &mut head);
        (self.frame.header.opaque, self.frame.header.flag) = (own_opaque, own_flag);
        encoded?;
        Ok((head.freeze(), self.frame.body.clone()))
    }

    /// A pull is with the master and may stay there for long: it keeps neither its receive buffer nor its part of the bytes in work.
    fn slim(&mut self) {
        if self.is_pull() && self.permit.take().is_some() {
            let header = &mut self.frame.header;
            header.ext = header.ext.iter().collect();
            header.remark = header.remark.take().map(|remark| WireStr::from(&*remark));
            self.frame.body = Bytes::copy_from_slice(&self.frame.body);
        }
    }

    /// Whether it may be asked for again though it may have been carried out: reads, and heartbeats of clients that are still known.
    pub(super) fn is_repeatable(&self, knows_client: bool) -> bool {
        let is_harmless = match self.code() {
            Some(Code::HeartBeat) => knows_client,
            Some(code) => is_read(code),
            None => false,
        };
        is_harmless && self.terms.repeats < REPEATS_MAX
    }

    /// For the next master. The first one may have taken the offset that a pull commits, and later ones after it: it is not committed again. And a pull that was held is
    /// held for the rest of its time.
    fn repeat(mut self, now: Instant) -> Self {
        self.terms.repeats += 1;
        let number = |name: &str| self.frame.header.ext.get(name).and_then(|value| value.parse::<i64>().ok());
        if self.is_pull()
            && let (Some(flags), Some(hold)) = (number(SYS_FLAG), number(SUSPEND))
        {
            let held = i64::try_from(now.duration_since(self.terms.since).as_millis()).unwrap_or(i64::MAX);
            let ext = &mut self.frame.header.ext;
            ext.insert_integer(SYS_FLAG, flags & !i64::from(pull_flag::COMMIT_OFFSET));
            ext.insert_integer(SUSPEND, hold.saturating_sub(held).max(0));
            (self.terms.since, self.terms.until) = (now, now + MASTER_WAIT);
        }
        self
    }
}

/// Marked as handed on.
pub(super) fn encode_forwarded(frame: &mut Frame, mark: &str, head: &mut BytesMut) -> Result<(), EncodeError> {
    frame.header.ext.insert(FORWARDED, mark);
    let encoded = encode_frame(&frame.header, frame.body.len(), head);
    frame.header.ext.remove(FORWARDED);
    encoded
}

/// What changes nothing, whoever is asked.
const fn is_read(code: Code) -> bool {
    matches!(
        code,
        Code::PullMessage
            | Code::LitePullMessage
            | Code::QueryMessage
            | Code::ViewMessageById
            | Code::QueryConsumerOffset
            | Code::SearchOffsetByTimestamp
            | Code::GetMaxOffset
            | Code::GetMinOffset
            | Code::GetEarliestMsgStoretime
            | Code::GetAllConsumerOffset
            | Code::CheckClientConfig
            | Code::GetConsumerListByGroup
            | Code::GetConsumerConnectionList
            | Code::GetProducerConnectionList
            | Code::QueryTopicConsumeByWho
            | Code::QueryTopicsByConsumer
            | Code::QuerySubscriptionByConsumer
            | Code::GetAllTopicConfig
            | Code::GetTopicConfig
            | Code::GetSystemTopicListFromBroker
            | Code::GetAllSubscriptiongroupConfig
            | Code::GetSubscriptiongroupConfig
            | Code::GetBrokerRuntimeInfo
            | Code::GetTopicStatsInfo
            | Code::GetConsumeStats
            | Code::ControllerGetSyncStateData
    )
}

/// How far a frame is that was taken for the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is being written; the master has not got all of it.
    Unwritten,
    /// The master has it.
    Written,
    /// The master has said that it is not one, and has not carried it out.
    GivenBack,
}

struct Taken {
    /// They were taken in this order.
    order: u64,
    stage: Stage,
    waiting: Waiting,
}

/// All that a client has no answer to, but for what has not been looked at yet.
#[derive(Default)]
pub(super) struct Frames {
    /// To be handed on, in this order, before anything that comes now.
    pub(super) queue: VecDeque<Waiting>,
    /// With the master, or on the way to it, under the opaque it has there: a client may use one twice.
    taken: HashMap<i32, Taken>,
    order: u64,
    /// Half of something is written: nothing else can follow.
    pub(super) is_writing: bool,
}

impl Frames {
    /// Takes a frame for the master; its opaque there, its head and its body.
    pub(super) fn take(&mut self, mut waiting: Waiting) -> Result<(i32, Bytes, Bytes), Box<(Waiting, EncodeError)>> {
        // After four billion frames nothing of the first is left.
        let opaque = self.order as u32 as i32;
        match waiting.encode(opaque) {
            Ok((head, body)) => {
                self.taken.insert(opaque, Taken { order: self.order, stage: Stage::Unwritten, waiting });
                self.order += 1;
                Ok((opaque, head, body))
            }
            Err(error) => Err(Box::new((waiting, error))),
        }
    }

    /// The master has all of it.
    pub(super) fn written(&mut self, opaque: i32) {
        if let Some(taken) = self.taken.get_mut(&opaque) {
            taken.stage = Stage::Written;
            taken.waiting.slim();
        }
    }

    /// The master does not carry it out.
    pub(super) fn given_back(&mut self, opaque: i32) {
        if let Some(taken) = self.taken.get_mut(&opaque) {
            taken.stage = Stage::GivenBack;
        }
    }

    /// It has its answer.
    pub(super) fn answered(&mut self, opaque: i32) -> Option<Waiting> {
        self.taken.remove(&opaque).map(|taken| taken.waiting)
    }

    /// Hands a read on again, after all that waits here.
    pub(super) fn repeat(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting.repeat(Instant::now()));
    }

    /// Whether the master may be carrying something out that can't be asked for again.
    pub(super) fn owes(&self, knows_client: bool) -> bool {
        self.taken.values().any(|taken| taken.stage == Stage::Written && !taken.waiting.is_repeatable(knows_client))
    }

    /// The way has ended: what can be handed on again comes before what has waited behind it. Gives what may have been carried out and must not be twice.
    pub(super) fn settle(&mut self, knows_client: bool) -> Vec<Waiting> {
        let mut all: Vec<_> = self.taken.drain().map(|(_, taken)| taken).collect();
        all.sort_unstable_by_key(|taken| taken.order);
        let (now, mut unknown, mut again) = (Instant::now(), Vec::new(), VecDeque::new());
        for Taken { stage, waiting, .. } in all {
            match stage {
                Stage::Unwritten | Stage::GivenBack => again.push_back(waiting),
                Stage::Written if waiting.is_repeatable(knows_client) => again.push_back(waiting.repeat(now)),
                Stage::Written => unknown.push(waiting),
            }
        }
        again.append(&mut self.queue);
        self.queue = again;
        self.is_writing = false;
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_protocol::ExtFields;

    fn waiting(code: Code, body: &'static str) -> Waiting {
        Waiting::new(Frame { header: Header::request(code, 1, ExtFields::new()), body: Bytes::from_static(body.as_bytes()) }, None)
    }

    fn bodies<'a>(frames: impl IntoIterator<Item = &'a Waiting>) -> Vec<&'a [u8]> {
        frames.into_iter().map(|waiting| &*waiting.frame.body).collect()
    }

    #[test]
    fn what_is_handed_on_again_comes_before_what_has_waited_behind_it_and_what_may_be_done_is_left_out() {
        let mut frames = Frames::default();
        let take = |frames: &mut Frames, code, body| frames.take(waiting(code, body)).map(|taken| taken.0).map_err(|_| "fits").expect("small");
        let back = take(&mut frames, Code::SendMessageV2, "given back");
        let read = take(&mut frames, Code::GetMaxOffset, "read");
        let sent = take(&mut frames, Code::SendMessageV2, "sent");
        let beat = take(&mut frames, Code::HeartBeat, "beat");
        let done = take(&mut frames, Code::SendMessageV2, "done");
        take(&mut frames, Code::SendMessageV2, "half written");
        frames.queue.push_back(waiting(Code::SendMessageV2, "behind"));
        for opaque in [back, read, sent, beat, done] {
            frames.written(opaque);
        }
        frames.given_back(back);
        assert!(frames.answered(done).is_some() && frames.answered(done).is_none());
        let unknown = frames.settle(false);
        assert_eq!(bodies(&unknown), [&b"sent"[..], b"beat"]);
        assert_eq!(bodies(&frames.queue), [&b"given back"[..], b"read", b"half written", b"behind"]);
        assert!(!frames.owes(false));
    }

    #[test]
    fn a_read_that_nobody_answers_is_given_up_at_last() {
        let mut frames = Frames::default();
        frames.queue.push_back(waiting(Code::GetMaxOffset, "read"));
        let mut times = 0;
        while let Some(next) = frames.queue.pop_front() {
            let (opaque, ..) = frames.take(next).map_err(|_| "fits").expect("small");
            frames.written(opaque);
            times += 1;
            if let Some(given_up) = frames.settle(true).pop() {
                assert_eq!(&*given_up.frame.body, b"read");
            }
        }
        assert_eq!(times, REPEATS_MAX + 1);
    }
}
