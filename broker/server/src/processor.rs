//! From frame to answer: which request is whose, what its fields must be, which code each failure has. Nothing is decided here about messages.

mod admin;
mod aside;
mod clients;
mod failure;
mod forward;
mod group;
mod lookup;
mod naming;
mod offsets;
mod push;
mod reads;
mod reply;
mod routes;
mod runtime;
mod send;
mod side;
mod stats;
#[cfg(test)]
mod tests;
mod told;

pub use forward::{Forwards, Master};
pub use naming::NamingProcessor;
pub(crate) use naming::OF_GROUP;
pub use push::Pushes;
pub use reads::ReadProcessor;
pub use routes::LocalBroker;
pub(crate) use routes::topic_to_wire;
pub use side::BrokerSide;
pub use told::Told;

use crate::{
    net::{Connection, Permit, Service},
    telemetry::RequestMetrics,
};
use aside::Aside;
use clients::check_client_config;
use failure::{Answer, Failure, Outcome};
use forward::Here;
use reply::Reply;
use side::Fence;
use sluice_delivery::Delivery;
use sluice_protocol::{Frame, Header, RequestCode, RequestCode as Code};
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};

/// The broker's requests.
pub struct BrokerProcessor {
    delivery: Arc<Delivery>,
    identity: LocalBroker,
    told: Arc<Told>,
    runtime: runtime::Rates,
    queries: Aside,
}

/// Queries by key looked up at once: each may read megabytes.
const QUERIES_AT_ONCE: usize = 2;

impl BrokerProcessor {
    /// Answers for `delivery` under this identity. Who changes topics is answered when name servers elsewhere have been `told`.
    #[must_use]
    pub fn new(delivery: Arc<Delivery>, identity: LocalBroker, told: Arc<Told>) -> Self {
        let runtime = runtime::Rates::new(delivery.counters());
        Self { delivery, identity, told, runtime, queries: Aside::new(QUERIES_AT_ONCE) }
    }
}

/// Stands behind every port. With both roles in one process, each port answers for both.
pub struct Processor {
    broker: Option<Arc<BrokerSide>>,
    naming: Option<NamingProcessor>,
    metrics: Arc<RequestMetrics>,
}

/// A request as handlers see it.
struct Request<'a> {
    header: &'a Header,
    body: bytes::Bytes,
    connection: &'a Arc<Connection>,
}

impl Request<'_> {
    fn fields<T: sluice_protocol::TypedHeader>(&self) -> Result<T, Failure> {
        Ok(T::decode(&self.header.ext)?)
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        Ok(sluice_protocol::body::from_json(&self.body)?)
    }

    fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }
}

impl Processor {
    /// Answers what belongs to the roles given.
    #[must_use]
    pub fn new(broker: Option<Arc<BrokerSide>>, naming: Option<NamingProcessor>, metrics: Arc<RequestMetrics>) -> Arc<Self> {
        let processor = Arc::new(Self { broker, naming, metrics });
        if let Some(side) = &processor.broker {
            let itself: Weak<Self> = Arc::downgrade(&processor);
            side.set_here(itself);
        }
        processor
    }

    /// A request of the broker's part: handled here or handed to the group's master.
    fn broker_frame(&self, side: &BrokerSide, code: RequestCode, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        side.remember(connection, &frame);
        if (group::is_of_member(code) || (group::is_of_group(code) && side.master().is_some()))
            && let Some(member) = side.member()
        {
            let reply = Reply::new(connection, &frame.header, permit, &self.metrics, None);
            return group::handle(member, side.address(), code, &frame, reply);
        }
        let as_master = |frame, permit| self.as_master(side, code, connection, frame, permit);
        match side.forwards() {
            Some(forwards) => forwards.pass(connection, frame, permit, as_master),
            None => {
                if let Some((frame, permit)) = as_master(frame, permit) {
                    Reply::new(connection, &frame.header, permit, &self.metrics, None).not_supported();
                }
            }
        }
    }

    /// Handles a request here, or gives it back: this broker is not master now.
    fn as_master<P: Into<Option<Permit>>>(
        &self,
        side: &BrokerSide,
        code: RequestCode,
        connection: &Arc<Connection>,
        frame: Frame,
        permit: P,
    ) -> Option<(Frame, P)> {
        let Some((processor, fence)) = side.master() else { return Some((frame, permit)) };
        let Frame { header, body } = frame;
        // What waits for the log is as good as its confirmation; everything else is a master's word, and must still be one when it is given.
        let fence = if waits_for_the_log(code) { fence.map(Fence::confirming_success) } else { fence };
        let reply = Reply::new(connection, &header, permit, &self.metrics, fence);
        processor.handle(code, &Request { header: &header, body, connection }, reply);
        None
    }
}

impl Here for Processor {
    fn serves(&self) -> bool {
        self.broker.as_ref().is_some_and(|side| side.master().is_some())
    }

    fn serve(&self, connection: &Arc<Connection>, frame: Frame, permit: Option<Permit>) -> Option<(Frame, Option<Permit>)> {
        match (&self.broker, frame.header.request_code()) {
            (Some(side), Some(code)) => self.as_master(side, code, connection, frame, permit),
            // Only a broker's requests come here.
            _ => None,
        }
    }
}

impl Service for Processor {
    fn on_frame(&self, connection: &Arc<Connection>, frame: Frame, permit: Permit) {
        let header = &frame.header;
        if header.is_response() {
            // We send only what wants no answer.
            tracing::debug!(peer = %connection.peer(), opaque = header.opaque, "an answer to nothing was dropped");
            return;
        }
        let code = header.request_code();
        match (code, &self.naming, &self.broker) {
            (Some(code), Some(naming), _) if is_naming(code) => {
                let Frame { header, body } = frame;
                let reply = Reply::new(connection, &header, permit, &self.metrics, None);
                naming.handle(code, &Request { header: &header, body, connection }, reply);
            }
            (Some(code), _, Some(side)) if !is_naming(code) => self.broker_frame(side, code, connection, frame, permit),
            _ => Reply::new(connection, header, permit, &self.metrics, None).not_supported(),
        }
    }

    fn on_read(&self, body: &mut dyn FnMut()) {
        match &self.broker {
            // The sends of one read share one write and one sync.
            Some(broker) => broker.corked(body),
            None => body(),
        }
    }

    fn on_close(&self, connection: &Arc<Connection>) {
        if let Some(broker) = &self.broker {
            broker.closed(connection);
        }
        if let Some(naming) = &self.naming {
            naming.connection_closed(connection);
        }
    }
}

/// Whose success is told when its record is stored as durably as the log's rule asks, and not before.
const fn waits_for_the_log(code: Code) -> bool {
    matches!(
        code,
        Code::SendMessage
            | Code::SendMessageV2
            | Code::SendBatchMessage
            | Code::EndTransaction
            | Code::ConsumerSendMsgBack
            | Code::UpdateAndCreateTopic
            | Code::DeleteTopicInBroker
            | Code::UpdateAndCreateSubscriptiongroup
            | Code::DeleteSubscriptiongroup
    )
}

/// Which requests are the name server's.
const fn is_naming(code: Code) -> bool {
    matches!(
        code,
        Code::PutKvConfig
            | Code::GetKvConfig
            | Code::DeleteKvConfig
            | Code::GetKvlistByNamespace
            | Code::RegisterBroker
            | Code::UnregisterBroker
            | Code::GetRouteinfoByTopic
            | Code::GetBrokerClusterInfo
            | Code::WipeWritePermOfBroker
            | Code::AddWritePermOfBroker
            | Code::GetAllTopicListFromNameserver
            | Code::DeleteTopicInNamesrv
            | Code::RegisterTopicInNamesrv
            | Code::GetTopicsByCluster
            | Code::GetSystemTopicListFromNs
            | Code::UpdateNamesrvConfig
            | Code::GetNamesrvConfig
            | Code::QueryDataVersion
            | Code::GetBrokerMemberGroup
            | Code::BrokerHeartbeat
    )
}

impl BrokerProcessor {
    fn handle(&self, code: RequestCode, request: &Request<'_>, reply: Reply) {
        let outcome: Outcome = match code {
            Code::SendMessage | Code::SendMessageV2 | Code::SendBatchMessage => return self.send(code, request, reply),
            Code::EndTransaction => return self.end_transaction(request, reply),
            Code::ConsumerSendMsgBack => return self.send_back(request, reply),
            Code::PullMessage | Code::LitePullMessage => return self.pull(request, reply),

            Code::QueryMessage => return self.query_message(request, reply),
            Code::ViewMessageById => self.view_message(request),

            Code::QueryConsumerOffset => return self.query_consumer_offset(request, reply),
            Code::UpdateConsumerOffset => return self.update_consumer_offset(request, reply),
            Code::SearchOffsetByTimestamp => self.search_offset(request),
            Code::GetMaxOffset => self.max_offset(request),
            Code::GetMinOffset => self.min_offset(request),
            Code::GetEarliestMsgStoretime => self.earliest_store_time(request),
            Code::GetAllConsumerOffset => self.all_consumer_offsets(),
            Code::CloneGroupOffset => return self.clone_group_offset(request, reply),
            Code::InvokeBrokerToResetOffset => return self.reset_offset(request, reply),

            Code::HeartBeat => self.heartbeat(request),
            Code::UnregisterClient => self.unregister_client(request),
            Code::CheckClientConfig => check_client_config(request),
            Code::GetConsumerListByGroup => self.consumer_list(request),
            Code::LockBatchMq => return self.lock_queues(request, reply),
            Code::UnlockBatchMq => self.unlock_queues(request),
            Code::GetConsumerConnectionList => self.consumer_connections(request),
            Code::GetProducerConnectionList => self.producer_connections(request),
            Code::QueryTopicConsumeByWho => self.topic_consumed_by(request),
            Code::QueryTopicsByConsumer => self.topics_of_consumer(request),
            Code::QuerySubscriptionByConsumer => self.subscription_of_consumer(request),

            Code::UpdateAndCreateTopic => return self.put_topic(request, reply),
            Code::DeleteTopicInBroker => return self.delete_topic(request, reply),
            Code::GetAllTopicConfig => self.all_topics(),
            Code::GetTopicConfig => self.topic_config(request),
            Code::GetSystemTopicListFromBroker => self.system_topics(),
            Code::UpdateAndCreateSubscriptiongroup => return self.put_group(request, reply),
            Code::DeleteSubscriptiongroup => return self.delete_group(request, reply),
            Code::GetAllSubscriptiongroupConfig => self.all_groups(),
            Code::GetSubscriptiongroupConfig => self.group_config(request),

            Code::GetBrokerRuntimeInfo => self.runtime_info(),
            Code::GetTopicStatsInfo => self.topic_stats(request),
            Code::GetConsumeStats => self.consume_stats(request),
            // From a name server that lets replicas stand in for masters. This broker is a master, whose work does not depend on who has the lowest number:
            // RocketMQ's masters, too, answer success and do nothing.
            Code::NotifyMinBrokerIdChange => Ok(Answer::success()),
            Code::UpdateBrokerConfig => Err(Failure::not_allowed("the broker's configuration is read at its start; change it there and restart")),

            // Not served by this version, or not asked of a broker at all.
            Code::CheckTransactionState
            | Code::NotifyConsumerIdsChanged
            | Code::UpdateAndCreateTopicList
            | Code::GetBrokerConfig
            | Code::GetAllDelayOffset
            | Code::GetTimerCheckPoint
            | Code::GetTimerMetrics
            | Code::ResetConsumerClientOffset
            | Code::GetConsumerStatusFromClient
            | Code::InvokeBrokerToGetConsumerStatus
            | Code::UpdateAndCreateSubscriptiongroupList
            | Code::QueryConsumeTimeSpan
            | Code::CleanExpiredConsumequeue
            | Code::GetConsumerRunningInfo
            | Code::QueryCorrectionOffset
            | Code::ConsumeMessageDirectly
            | Code::ViewBrokerStatsData
            | Code::CleanUnusedTopic
            | Code::GetBrokerConsumeStats
            | Code::QueryConsumeQueue
            | Code::SendReplyMessage
            | Code::SendReplyMessageV2
            | Code::PushReplyMessageToClient
            | Code::GetAllProducerInfo
            | Code::DeleteExpiredCommitlog
            | Code::UpdateAndGetGroupForbidden
            | Code::RecallMessage
            | Code::QueryAssignment
            | Code::SetMessageRequestMode
            | Code::ExchangeBrokerHaInfo
            | Code::GetBrokerHaStatus
            | Code::GetBrokerEpochCache
            | Code::ControllerGetMetadataInfo
            | Code::ControllerGetSyncStateData
            | Code::SluiceGroupStatus
            | Code::SluiceSwitchover
            | Code::SluiceElectUnclean
            | Code::SluiceResync
            | Code::SluiceGiveBack
            | Code::AuthCreateUser
            | Code::AuthUpdateUser
            | Code::AuthDeleteUser
            | Code::AuthGetUser
            | Code::AuthListUser
            | Code::AuthCreateAcl
            | Code::AuthUpdateAcl
            | Code::AuthDeleteAcl
            | Code::AuthGetAcl
            | Code::AuthListAcl
            | Code::PopMessage
            | Code::AckMessage
            | Code::PeekMessage
            | Code::ChangeMessageInvisibletime
            | Code::Notification
            | Code::PollingInfo
            | Code::BatchAckMessage => return reply.not_supported(),

            // The name server's: `is_naming` has sent them there.
            Code::PutKvConfig
            | Code::GetKvConfig
            | Code::DeleteKvConfig
            | Code::GetKvlistByNamespace
            | Code::RegisterBroker
            | Code::UnregisterBroker
            | Code::GetRouteinfoByTopic
            | Code::GetBrokerClusterInfo
            | Code::WipeWritePermOfBroker
            | Code::AddWritePermOfBroker
            | Code::GetAllTopicListFromNameserver
            | Code::DeleteTopicInNamesrv
            | Code::RegisterTopicInNamesrv
            | Code::GetTopicsByCluster
            | Code::GetSystemTopicListFromNs
            | Code::UpdateNamesrvConfig
            | Code::GetNamesrvConfig
            | Code::QueryDataVersion
            | Code::GetBrokerMemberGroup
            | Code::BrokerHeartbeat => return reply.not_supported(),
        };
        reply.outcome(outcome);
    }
}
