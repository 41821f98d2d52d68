//! The numbers of requests and answers.

use std::fmt;

macro_rules! codes {
    ($(#[$doc:meta])* $enum:ident: $what:literal { $($variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum $enum {
            $(#[doc = concat!($what, " ", stringify!($code), ".")] $variant = $code),*
        }

        impl $enum {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Reads the header's number; `None` when it is not one we know.
            #[must_use]
            pub const fn from_wire(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The header's number.
            #[must_use]
            pub const fn to_wire(self) -> i32 {
                self as i32
            }

            /// Its name, for logs, metrics and people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// What a peer asks for. The names are RocketMQ's; those from a million on are Sluice's own.
    RequestCode: "Request code" {
        SendMessage = 10,
        PullMessage = 11,
        QueryMessage = 12,
        QueryConsumerOffset = 14,
        UpdateConsumerOffset = 15,
        UpdateAndCreateTopic = 17,
        UpdateAndCreateTopicList = 18,
        GetAllTopicConfig = 21,
        UpdateBrokerConfig = 25,
        GetBrokerConfig = 26,
        GetBrokerRuntimeInfo = 28,
        SearchOffsetByTimestamp = 29,
        GetMaxOffset = 30,
        GetMinOffset = 31,
        GetEarliestMsgStoretime = 32,
        ViewMessageById = 33,
        HeartBeat = 34,
        UnregisterClient = 35,
        ConsumerSendMsgBack = 36,
        EndTransaction = 37,
        GetConsumerListByGroup = 38,
        CheckTransactionState = 39,
        NotifyConsumerIdsChanged = 40,
        LockBatchMq = 41,
        UnlockBatchMq = 42,
        GetAllConsumerOffset = 43,
        GetAllDelayOffset = 45,
        CheckClientConfig = 46,
        GetTimerCheckPoint = 60,
        GetTimerMetrics = 61,
        PutKvConfig = 100,
        GetKvConfig = 101,
        DeleteKvConfig = 102,
        RegisterBroker = 103,
        UnregisterBroker = 104,
        GetRouteinfoByTopic = 105,
        GetBrokerClusterInfo = 106,
        UpdateAndCreateSubscriptiongroup = 200,
        GetAllSubscriptiongroupConfig = 201,
        GetTopicStatsInfo = 202,
        GetConsumerConnectionList = 203,
        GetProducerConnectionList = 204,
        WipeWritePermOfBroker = 205,
        GetAllTopicListFromNameserver = 206,
        DeleteSubscriptiongroup = 207,
        GetConsumeStats = 208,
        DeleteTopicInBroker = 215,
        DeleteTopicInNamesrv = 216,
        RegisterTopicInNamesrv = 217,
        GetKvlistByNamespace = 219,
        ResetConsumerClientOffset = 220,
        GetConsumerStatusFromClient = 221,
        InvokeBrokerToResetOffset = 222,
        InvokeBrokerToGetConsumerStatus = 223,
        GetTopicsByCluster = 224,
        UpdateAndCreateSubscriptiongroupList = 225,
        QueryTopicConsumeByWho = 300,
        QueryConsumeTimeSpan = 303,
        GetSystemTopicListFromNs = 304,
        GetSystemTopicListFromBroker = 305,
        CleanExpiredConsumequeue = 306,
        GetConsumerRunningInfo = 307,
        QueryCorrectionOffset = 308,
        ConsumeMessageDirectly = 309,
        SendMessageV2 = 310,
        CloneGroupOffset = 314,
        ViewBrokerStatsData = 315,
        CleanUnusedTopic = 316,
        GetBrokerConsumeStats = 317,
        UpdateNamesrvConfig = 318,
        GetNamesrvConfig = 319,
        SendBatchMessage = 320,
        QueryConsumeQueue = 321,
        QueryDataVersion = 322,
        SendReplyMessage = 324,
        SendReplyMessageV2 = 325,
        PushReplyMessageToClient = 326,
        AddWritePermOfBroker = 327,
        GetAllProducerInfo = 328,
        DeleteExpiredCommitlog = 329,
        QueryTopicsByConsumer = 343,
        QuerySubscriptionByConsumer = 345,
        GetTopicConfig = 351,
        GetSubscriptiongroupConfig = 352,
        UpdateAndGetGroupForbidden = 353,
        LitePullMessage = 361,
        RecallMessage = 370,
        QueryAssignment = 400,
        SetMessageRequestMode = 401,
        GetBrokerMemberGroup = 901,
        BrokerHeartbeat = 904,
        NotifyMinBrokerIdChange = 905,
        ExchangeBrokerHaInfo = 906,
        GetBrokerHaStatus = 907,
        ControllerGetMetadataInfo = 1005,
        ControllerGetSyncStateData = 1006,
        GetBrokerEpochCache = 1007,
        AuthCreateUser = 3001,
        AuthUpdateUser = 3002,
        AuthDeleteUser = 3003,
        AuthGetUser = 3004,
        AuthListUser = 3005,
        AuthCreateAcl = 3006,
        AuthUpdateAcl = 3007,
        AuthDeleteAcl = 3008,
        AuthGetAcl = 3009,
        AuthListAcl = 3010,
        PopMessage = 200050,
        AckMessage = 200051,
        PeekMessage = 200052,
        ChangeMessageInvisibletime = 200053,
        Notification = 200054,
        PollingInfo = 200055,
        BatchAckMessage = 200151,
        SluiceGroupStatus = 1_000_001,
        SluiceSwitchover = 1_000_002,
        SluiceElectUnclean = 1_000_003,
        SluiceResync = 1_000_004,
        SluiceGiveBack = 1_000_005,
    }
}

codes! {
    /// What became of a request. The names are RocketMQ's.
    ResponseCode: "Response code" {
        Success = 0,
        SystemError = 1,
        SystemBusy = 2,
        RequestCodeNotSupported = 3,
        TransactionFailed = 4,
        FlushDiskTimeout = 10,
        SlaveNotAvailable = 11,
        FlushSlaveTimeout = 12,
        MessageIllegal = 13,
        ServiceNotAvailable = 14,
        VersionNotSupported = 15,
        NoPermission = 16,
        TopicNotExist = 17,
        TopicExistAlready = 18,
        PullNotFound = 19,
        PullRetryImmediately = 20,
        PullOffsetMoved = 21,
        QueryNotFound = 22,
        SubscriptionParseFailed = 23,
        SubscriptionNotExist = 24,
        SubscriptionNotLatest = 25,
        SubscriptionGroupNotExist = 26,
        FilterDataNotExist = 27,
        FilterDataNotLatest = 28,
        InvalidParameter = 29,
        TransactionShouldCommit = 200,
        TransactionShouldRollback = 201,
        TransactionStateUnknow = 202,
        TransactionStateGroupWrong = 203,
        NoBuyerId = 204,
        NotInCurrentUnit = 205,
        ConsumerNotOnline = 206,
        ConsumeMsgTimeout = 207,
        NoMessage = 208,
        PollingFull = 209,
        PollingTimeout = 210,
        BrokerNotExist = 211,
        BrokerDispatchNotComplete = 212,
        BroadcastConsumption = 213,
        FlowControl = 215,
        NotLeaderForQueue = 501,
        IllegalOperation = 604,
        GoAway = 1500,
        UserNotExist = 3001,
        PolicyNotExist = 3002,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_back_and_has_one_name() {
        for code in RequestCode::ALL {
            assert_eq!(RequestCode::from_wire(code.to_wire()), Some(*code));
        }
        for code in ResponseCode::ALL {
            assert_eq!(ResponseCode::from_wire(code.to_wire()), Some(*code));
        }
        assert!(RequestCode::ALL.is_sorted() && ResponseCode::ALL.is_sorted());
        assert_eq!((RequestCode::from_wire(-1), ResponseCode::from_wire(999)), (None, None));
        assert_eq!(RequestCode::SendMessageV2.to_string(), "SendMessageV2");
    }
}
