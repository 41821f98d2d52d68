//! `sluice bench consume`.

use super::{
    HeaderForm,
    report::{Recorder, Report},
    runtime,
};
use crate::{Global, error::CliError, output, time::Position};
use bytes::BytesMut;
use sluice_client::{ClientError, QueueAddress};
use sluice_protocol::{
    Frame, FrameLimits, Header, RequestCode, ResponseCode, Step, TypedHeader, WireStr, encode_frame,
    headers::{PullMessageRequest, PullMessageResponse, pull_flag},
    next_frame,
    record::RecordView,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::timeout,
};

/// How often in a row a queue may answer with an error before it is given up.
const ERRORS_MAX: u32 = 50;
const ERROR_PAUSE: Duration = Duration::from_millis(20);
const FRAME_LENGTH_BYTES: usize = 4;
/// Read while no frame has begun: a small one whole.
const FRAME_START_BYTES: usize = 4096;
const READ_BYTES_MAX: usize = 16 << 20;

/// Drain a backlog: from --from to the end each queue has at the start.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    global: Global,
    /// Topic
    topic: String,
    /// Connections to each broker
    #[arg(long, short = 'c', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Pulls under way on each connection, at most one for each part of a queue
    #[arg(long, short = 'i', default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Messages asked for in one pull; a server may give fewer
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    messages: u32,
    /// Bytes asked for in one pull; without it the server decides
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    bytes: Option<u32>,
    /// Where to begin: earliest or a time
    #[arg(long, default_value = "earliest", value_name = "POSITION", allow_hyphen_values = true)]
    from: Position,
    /// Split each queue into so many parts that are read side by side
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    split: u32,
    /// Stop after this time even if messages are left
    #[arg(long, value_parser = super::produce::seconds)]
    seconds: Option<f64>,
    /// Check the checksum of each record too, not only lengths and offsets
    #[arg(long)]
    verify: bool,
    /// Form of the request headers
    #[arg(long, value_enum, default_value = "binary")]
    header: HeaderForm,
    /// Consumer group; its offsets are left alone
    #[arg(long, default_value = "sluice-bench")]
    group: String,
}

/// A part of a queue that is read from front to back.
#[derive(Clone, Debug)]
struct Cursor {
    queue_id: u32,
    next: i64,
    end: i64,
    errors: u32,
}

struct Part {
    recorder: Recorder,
    bar: indicatif::ProgressBar,
    deadline: Option<Instant>,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let runtime = runtime()?;
    let cursors = runtime.block_on(Box::pin(prepare(&args)))?;
    let backlog: i64 = cursors.values().flatten().map(|c| c.end - c.next).sum();
    if backlog == 0 {
        return Err(CliError::NotFound(format!("topic {} has no messages to read; fill it with `sluice bench produce {}`", args.topic, args.topic)));
    }
    let started = Instant::now();
    let deadline = args.seconds.map(|s| started + Duration::from_secs_f64(s));
    let bar = output::progress(output::Total::Steps(backlog.unsigned_abs()), "messages");
    let part = Rc::new(RefCell::new(Part { recorder: Recorder::new()?, bar, deadline }));
    let local = LocalSet::new();
    let mut lanes = Vec::new();
    for (addr, cursors) in cursors {
        for index in 0..args.connections as usize {
            let mine: VecDeque<Cursor> = cursors.iter().skip(index).step_by(args.connections as usize).cloned().collect();
            if !mine.is_empty() {
                lanes.push(local.spawn_local(drain(args.clone(), addr.clone(), mine, Rc::clone(&part))));
            }
        }
    }
    runtime.block_on(local.run_until(async {
        for lane in lanes {
            if let Err(error) = lane.await {
                part.borrow_mut().recorder.error(&error.to_string(), 1);
            }
        }
    }));
    let took = started.elapsed();
    let part = part.borrow();
    part.bar.finish_and_clear();
    let mut setting: BTreeMap<&'static str, serde_json::Value> = BTreeMap::new();
    setting.insert("topic", args.topic.clone().into());
    setting.insert("connections", args.connections.into());
    setting.insert("in_flight", args.in_flight.into());
    setting.insert("pull", args.messages.into());
    setting.insert("split", args.split.into());
    setting.insert("backlog", backlog.into());
    Report::new("consume", setting, &part.recorder, took).print(args.global.output)?;
    let missing = backlog.unsigned_abs().saturating_sub(part.recorder.messages);
    if missing > 0 && deadline.is_none() {
        return Err(CliError::Failed(format!("{missing} of {backlog} messages were not read; the errors above say why")));
    }
    Ok(())
}

/// The parts of all queues, by broker.
async fn prepare(args: &Args) -> Result<BTreeMap<String, Vec<Cursor>>, CliError> {
    let (client, admin) = args.global.admin().await?;
    let mut by_broker: BTreeMap<String, Vec<Cursor>> = BTreeMap::new();
    let queues = client.refresh_route(&args.topic).await?.readable();
    if queues.is_empty() {
        return Err(ClientError::NoQueue { topic: args.topic.clone(), purpose: "read", queue: None }.into());
    }
    for queue in queues {
        let first = match args.from {
            Position::Earliest => admin.min_offset(&args.topic, &queue).await?,
            Position::Latest => return Err(CliError::Usage("--from latest leaves nothing to read; give earliest or a time".to_owned())),
            Position::Time(ms) => admin.search_offset(&args.topic, &queue, ms).await?,
        };
        let end = admin.max_offset(&args.topic, &queue).await?;
        by_broker.entry(queue.addr.clone()).or_default().extend(split(&queue, first, end, args.split.into()));
    }
    Ok(by_broker)
}

fn split(queue: &QueueAddress, first: i64, end: i64, parts: i64) -> impl Iterator<Item = Cursor> {
    let (queue_id, total) = (queue.queue_id, (end - first).max(0));
    let at = move |part: i64| first + total / parts * part + (total % parts).min(part);
    (0..parts).map(move |part| Cursor { queue_id, next: at(part), end: at(part + 1), errors: 0 }).filter(|c| c.next < c.end)
}

/// One connection, to the end of its cursors.
async fn drain(args: Args, addr: String, waiting: VecDeque<Cursor>, part: Rc<RefCell<Part>>) {
    if let Err(reason) = Box::pin(pull_all(&args, &addr, waiting, &part)).await {
        part.borrow_mut().recorder.error(&reason, 1);
    }
}

async fn pull_all(args: &Args, addr: &str, mut waiting: VecDeque<Cursor>, part: &RefCell<Part>) -> Result<(), String> {
    let wait = Duration::from_secs(args.global.timeout);
    let connecting = timeout(wait, TcpStream::connect(addr)).await;
    let mut stream = connecting.map_err(|_| "no connection in time".to_owned())?.map_err(|e| format!("cannot connect: {}", e.kind()))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let limits = FrameLimits { frame_bytes_max: 128 * 1024 * 1024, ..FrameLimits::default() };
    let mut under_way: Vec<Option<(Cursor, Instant)>> = vec![None; args.in_flight as usize];
    let (mut out, mut input) = (BytesMut::new(), BytesMut::with_capacity(1024 * 1024));
    loop {
        let over = part.borrow().deadline.is_some_and(|at| Instant::now() >= at);
        for (slot, place) in under_way.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let Some(cursor) = waiting.pop_front().filter(|_| !over) else { break };
            request(args, &cursor, slot, &mut out)?;
            *place = Some((cursor, Instant::now()));
        }
        timeout(wait, stream.write_all(&out)).await.map_err(|_| "the server reads no requests".to_owned())?.map_err(|e| e.to_string())?;
        out.clear();
        if under_way.iter().all(Option::is_none) {
            return Ok(());
        }
        let wanted = missing(&input);
        input.reserve(wanted);
        let mut part_of_it = (&mut stream).take(wanted as u64);
        let reading = timeout(wait, part_of_it.read_buf(&mut input)).await;
        let read = reading.map_err(|_| format!("no answer within {wait:?}"))?.map_err(|e| e.to_string())?;
        if read == 0 {
            return Err("the server closed the connection".to_owned());
        }
        let mut pause = false;
        while let Step::Frame(frame) = next_frame(&mut input, &limits).map_err(|e| e.to_string())? {
            let place = under_way.get_mut(frame.header.opaque as usize).filter(|_| frame.header.is_response());
            let Some((cursor, sent)) = place.and_then(Option::take) else { continue };
            let (cursor, failed) = take(args, cursor, sent, &frame, &mut part.borrow_mut());
            pause |= failed;
            waiting.extend(cursor.filter(|c| c.next < c.end));
        }
        if pause {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}

/// How much to read next: what the frame that has begun still needs and no more, since the rest of a larger read would be moved about with each frame taken out.
fn missing(input: &BytesMut) -> usize {
    let Some(length) = input.first_chunk() else { return FRAME_START_BYTES };
    let whole = FRAME_LENGTH_BYTES + u32::from_be_bytes(*length) as usize;
    whole.saturating_sub(input.len()).clamp(1, READ_BYTES_MAX)
}

fn request(args: &Args, cursor: &Cursor, slot: usize, out: &mut BytesMut) -> Result<(), String> {
    let pull = PullMessageRequest {
        consumer_group: args.group.as_str().into(),
        topic: args.topic.as_str().into(),
        queue_id: cursor.queue_id.cast_signed(),
        queue_offset: cursor.next,
        max_msg_nums: i64::from(args.messages).min(cursor.end - cursor.next) as i32,
        sys_flag: pull_flag::SUBSCRIPTION,
        subscription: Some(WireStr::from_static("*")),
        expression_type: Some(WireStr::from_static("TAG")),
        max_msg_bytes: args.bytes.map(u32::cast_signed),
        ..PullMessageRequest::default()
    };
    let mut header = Header::request(RequestCode::PullMessage, slot as i32, pull.encode());
    header.serialization = args.header.into();
    encode_frame(&header, 0, out).map_err(|e| e.to_string())
}

/// Counts an answer and returns the cursor moved on; `None` when it is given up. The flag says that it failed.
fn take(args: &Args, mut cursor: Cursor, sent: Instant, frame: &Frame, part: &mut Part) -> (Option<Cursor>, bool) {
    part.recorder.latency(sent.elapsed().as_nanos() as u64);
    part.recorder.requests += 1;
    let code = frame.header.response_code();
    let moved = match code {
        Some(ResponseCode::Success) => match check(args, &cursor, frame) {
            Ok((messages, bytes)) if messages > 0 => {
                part.recorder.messages += messages;
                part.recorder.bytes += bytes;
                part.bar.inc(messages);
                cursor.next += messages.cast_signed();
                cursor.errors = 0;
                return (Some(cursor), false);
            }
            Ok(_) => Err("an answer says that it has messages, but has none".to_owned()),
            Err(reason) => {
                part.recorder.error(&reason, 1);
                return (None, true);
            }
        },
        Some(ResponseCode::PullRetryImmediately | ResponseCode::PullOffsetMoved) => match PullMessageResponse::decode(&frame.header.ext) {
            Ok(answer) if answer.next_begin_offset > cursor.next => {
                part.recorder.error("offsets that hold no message for us", (answer.next_begin_offset.min(cursor.end) - cursor.next).unsigned_abs());
                cursor.next = answer.next_begin_offset;
                Ok(())
            }
            _ => Err("the server asks to go on, but not where".to_owned()),
        },
        _ => {
            part.recorder.refusal(frame.header.code);
            Ok(())
        }
    };
    if let Err(reason) = moved {
        part.recorder.error(&reason, 1);
    }
    cursor.errors += 1;
    (Some(cursor).filter(|c| c.errors < ERRORS_MAX), true)
}

/// Walks the records: lengths must meet, queue and offsets must be those asked for. Returns messages and their bodies' bytes.
fn check(args: &Args, cursor: &Cursor, frame: &Frame) -> Result<(u64, u64), String> {
    let (mut at, mut messages, mut bytes) = (0, 0u64, 0u64);
    while at < frame.body.len() {
        let rest = &frame.body[at..];
        let view = RecordView::parse(rest).map_err(|e| format!("a record is damaged: {e}"))?;
        if args.verify && view.is_sealed() {
            RecordView::checked(rest).map_err(|e| format!("a record is damaged: {e}"))?;
        }
        let expected = cursor.next.unsigned_abs() + messages;
        if view.queue_offset() != expected || view.queue_id() != cursor.queue_id.cast_signed() {
            return Err("a record is not that at the offset asked for".to_owned());
        }
        at += view.bytes().len();
        messages += 1;
        bytes += view.body().len() as u64;
    }
    Ok((messages, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_queue_meet_and_leave_nothing_out() {
        let queue = QueueAddress { broker: "b".into(), addr: "b:1".into(), queue_id: 3 };
        for (first, end, parts) in [(0, 10, 3), (5, 7, 4), (9, 9, 2), (100, 1_000_003, 7)] {
            let mut at = first;
            for cursor in split(&queue, first, end, parts) {
                assert_eq!(cursor.next, at);
                at = cursor.end;
            }
            assert_eq!(at, end);
        }
    }
}
