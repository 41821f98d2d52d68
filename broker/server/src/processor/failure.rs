//! What a request came to, and which code each failure has on the wire.
//!
//! Clients send again to another broker on `SystemError`, `SystemBusy`, `ServiceNotAvailable`, `NoPermission`, `TopicNotExist` (and `GoAway`); on any other
//! code the application gets the failure at once. So what another broker may do better has one of those, and what is wrong everywhere has not.

use bytes::Bytes;
use sluice_delivery::{EndError, FilterError, GroupError, OffsetError, PullError, QueryError, ResetError, SendBackError, SendError, TopicError};
use sluice_protocol::{ExtFields, HeaderError, ResponseCode, TypedHeader, body, message_id::MessageIdError};
use sluice_store::{AppendError, Late, ReadError};
use sluice_types::NameError;

/// A failure as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ResponseCode,
    pub(super) remark: String,
}

/// An answer that is no failure, though its code may say that nothing was found.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) remark: Option<String>,
    pub(super) ext: ExtFields,
    pub(super) body: Vec<Bytes>,
}

/// What a request came to.
pub(super) type Outcome = Result<Answer, Failure>;

impl Answer {
    /// Success and nothing more.
    pub(super) fn success() -> Self {
        Self { code: ResponseCode::Success, remark: None, ext: ExtFields::new(), body: Vec::new() }
    }

    /// Success with fields.
    pub(super) fn fields(fields: &impl TypedHeader) -> Self {
        Self { ext: fields.encode(), ..Self::success() }
    }

    /// Success with a JSON body.
    pub(super) fn json(value: &impl serde::Serialize) -> Self {
        Self { body: vec![body::to_json(value).into()], ..Self::success() }
    }
}

impl Failure {
    pub(super) fn new(code: ResponseCode, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    pub(super) fn invalid(remark: impl Into<String>) -> Self {
        Self::new(ResponseCode::InvalidParameter, remark)
    }

    pub(super) fn not_allowed(remark: impl Into<String>) -> Self {
        Self::new(ResponseCode::NoPermission, remark)
    }
}

/// Most of a body or name that a remark repeats.
const REMARK_BYTES_MAX: usize = 1024;

/// Cuts a remark to what a header line should hold.
pub(super) fn shortened(mut remark: String) -> String {
    if remark.len() > REMARK_BYTES_MAX {
        let end = (0..=REMARK_BYTES_MAX).rev().find(|at| remark.is_char_boundary(*at)).unwrap_or(0);
        remark.truncate(end);
    }
    remark
}

impl From<HeaderError> for Failure {
    fn from(error: HeaderError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<body::BodyError> for Failure {
    fn from(error: body::BodyError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<MessageIdError> for Failure {
    fn from(error: MessageIdError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// The message is there; what is not certain?
pub(super) const fn late_code(late: Late) -> ResponseCode {
    match late {
        Late::Flush => ResponseCode::FlushDiskTimeout,
        Late::Confirmation => ResponseCode::FlushSlaveTimeout,
        Late::Replicas => ResponseCode::SlaveNotAvailable,
    }
}

/// Retried elsewhere: all but a flush that came too late (the message is there) and a record that no segment can hold.
const fn append_code(error: &AppendError) -> ResponseCode {
    match error {
        AppendError::QueueFull(_) => ResponseCode::SystemBusy,
        AppendError::DiskFull(_) | AppendError::Stopped => ResponseCode::ServiceNotAvailable,
        // It may be stored: no code that says that it is not.
        AppendError::Poisoned(_) | AppendError::Ended(_) => ResponseCode::SystemError,
        AppendError::Late(late, _) => late_code(*late),
        AppendError::TooLarge(_) => ResponseCode::MessageIllegal,
    }
}

/// Retried elsewhere: a topic that is missing here, and what the store refuses.
const fn topic_code(error: &TopicError) -> ResponseCode {
    match error {
        TopicError::NotFound(_) => ResponseCode::TopicNotExist,
        TopicError::Name(_) | TopicError::Queues { .. } | TopicError::Perm { .. } | TopicError::Durability { .. } | TopicError::Reserved(_) => {
            ResponseCode::InvalidParameter
        }
        TopicError::TooMany(_) => ResponseCode::SystemError,
        TopicError::Store { error, .. } => append_code(error),
    }
}

const fn group_code(error: &GroupError) -> ResponseCode {
    match error {
        GroupError::NotFound(_) => ResponseCode::SubscriptionGroupNotExist,
        GroupError::TooMany(_) => ResponseCode::SystemError,
        GroupError::Store { error, .. } => append_code(error),
    }
}

const fn filter_code(error: &FilterError) -> ResponseCode {
    match error {
        FilterError::Unsupported(_) | FilterError::Empty(_) | FilterError::TooManyTags(_) => ResponseCode::SubscriptionParseFailed,
    }
}

const fn read_code(error: &ReadError) -> ResponseCode {
    match error {
        ReadError::Corrupt(_) | ReadError::NotFound(_) | ReadError::Disk(..) => ResponseCode::SystemError,
    }
}

/// Retried elsewhere: a topic that is missing or closed here, and what the store refuses.
const fn send_code(error: &SendError) -> ResponseCode {
    match error {
        SendError::Topic(error) => topic_code(error),
        SendError::NoPermission(_) => ResponseCode::NoPermission,
        // Another broker may have fewer, and this one after a moment.
        SendError::TransactionsFull(_) => ResponseCode::SystemBusy,
        // As upstream: another broker has other queues.
        SendError::QueueId { .. } => ResponseCode::SystemError,
        SendError::Illegal(_) | SendError::Timer => ResponseCode::MessageIllegal,
        SendError::GroupNotFound(_) => ResponseCode::SubscriptionGroupNotExist,
        SendError::Late(late, _) => late_code(*late),
        SendError::Store(error) => append_code(error),
    }
}

/// As upstream; no official client waits for the answer.
const fn end_code(error: &EndError) -> ResponseCode {
    match error {
        EndError::NotHalf(_)
        | EndError::Read(_)
        | EndError::Group { .. }
        | EndError::QueueOffset { .. }
        | EndError::Id { .. }
        | EndError::Ended(_)
        | EndError::UnderWay(_) => ResponseCode::SystemError,
        EndError::Illegal(_) => ResponseCode::MessageIllegal,
        EndError::Store(error) => append_code(error),
    }
}

const fn send_back_code(error: &SendBackError) -> ResponseCode {
    match error {
        SendBackError::Group(error) => group_code(error),
        SendBackError::Name(_) | SendBackError::Illegal { .. } => ResponseCode::MessageIllegal,
        SendBackError::Topic(error) => topic_code(error),
        SendBackError::NoPermission(_) => ResponseCode::NoPermission,
        SendBackError::Original { .. } => ResponseCode::SystemError,
        SendBackError::Store(error) => append_code(error),
    }
}

const fn pull_code(error: &PullError) -> ResponseCode {
    match error {
        PullError::Topic(error) => topic_code(error),
        PullError::Group(error) => group_code(error),
        PullError::NoPermission(_) => ResponseCode::NoPermission,
        PullError::QueueId { .. } => ResponseCode::InvalidParameter,
        PullError::NoSubscription(..) => ResponseCode::SubscriptionNotExist,
        PullError::SubscriptionOutdated { .. } => ResponseCode::SubscriptionNotLatest,
        PullError::Filter(error) => filter_code(error),
        PullError::PollingFull(_) => ResponseCode::PollingFull,
        PullError::Read(error) => read_code(error),
        PullError::Stopped => ResponseCode::ServiceNotAvailable,
    }
}

const fn offset_code(error: &OffsetError) -> ResponseCode {
    match error {
        OffsetError::TopicNotFound(_) => ResponseCode::TopicNotExist,
        OffsetError::QueueId(..) | OffsetError::Negative(_) => ResponseCode::InvalidParameter,
        OffsetError::NotFound(..) => ResponseCode::QueryNotFound,
        OffsetError::Store { error, .. } => append_code(error),
    }
}

const fn reset_code(error: &ResetError) -> ResponseCode {
    match error {
        ResetError::TopicNotFound(_) => ResponseCode::TopicNotExist,
        ResetError::GroupNotFound(_) => ResponseCode::SubscriptionGroupNotExist,
        ResetError::QueueId { .. } | ResetError::Offset { .. } => ResponseCode::InvalidParameter,
        ResetError::Read(error) => read_code(error),
        ResetError::Store(error) => append_code(error),
    }
}

const fn query_code(error: &QueryError) -> ResponseCode {
    match error {
        QueryError::Topic(error) => topic_code(error),
        QueryError::QueueId(..) => ResponseCode::InvalidParameter,
        QueryError::Read(error) => read_code(error),
    }
}

macro_rules! failures {
    ($($error:ty => $code:ident,)*) => { $(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new($code(&error), error.to_string())
            }
        }
    )* };
}

failures! {
    AppendError => append_code,
    TopicError => topic_code,
    GroupError => group_code,
    FilterError => filter_code,
    ReadError => read_code,
    SendError => send_code,
    EndError => end_code,
    SendBackError => send_back_code,
    PullError => pull_code,
    OffsetError => offset_code,
    QueryError => query_code,
    ResetError => reset_code,
}
