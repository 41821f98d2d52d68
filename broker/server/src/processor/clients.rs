//! Clients, their groups, their locks.

use super::{Answer, BrokerProcessor, Failure, Outcome, Reply, Request};
use sluice_delivery::{ClientInfo, ConsumeFromWhere, ConsumeType, ConsumerGroupView, ConsumerHeartbeat, FilterError, MessageModel, Subscription};
use sluice_protocol::{
    ResponseCode,
    body::{
        CheckClientRequestBody, Connection, ConsumerConnection, ConsumerData, GetConsumerListByGroupResponseBody, GroupList, HeartbeatData,
        LockBatchRequestBody, LockBatchResponseBody, MessageQueue, ProducerConnection, SubscriptionData, TopicList, UnlockBatchRequestBody,
    },
    headers::{
        GetConsumerConnectionListRequest, GetConsumerListByGroupRequest, GetProducerConnectionListRequest, QuerySubscriptionByConsumerRequest,
        QueryTopicConsumeByWhoRequest, QueryTopicsByConsumerRequest, UnregisterClientRequest,
    },
};
use sluice_types::{Group, NameError, QueueId, Topic};
use std::collections::{BTreeSet, HashSet};

/// Most groups in one heartbeat, and most topics of one group.
const HEARTBEAT_GROUPS_MAX: usize = 4096;
/// Longest client id.
const CLIENT_ID_BYTES_MAX: usize = 1024;

fn client_id(id: String) -> Result<String, Failure> {
    match id.len() {
        0 => Err(Failure::invalid("the client gives no id of itself (clientID); set its instance name")),
        1..=CLIENT_ID_BYTES_MAX => Ok(id),
        bytes => Err(Failure::invalid(format!("the client's id has {bytes} bytes; the limit is {CLIENT_ID_BYTES_MAX}"))),
    }
}

fn heartbeat_of(data: ConsumerData) -> Result<ConsumerHeartbeat, NameError> {
    let group = Group::new(&data.group_name)?;
    let mut subscriptions = Vec::with_capacity(data.subscription_data_set.len());
    for wanted in data.subscription_data_set {
        let topic = Topic::new(&wanted.topic)?;
        match Subscription::parse(topic, &wanted.sub_string, &wanted.expression_type, wanted.sub_version) {
            Ok(subscription) => subscriptions.push(subscription),
            // The group's other topics go on; who pulls this one is told why not.
            Err(error) => tracing::debug!(%group, topic = wanted.topic, %error, "a subscription is left out"),
        }
    }
    Ok(ConsumerHeartbeat {
        group,
        consume_type: ConsumeType::from_name(&data.consume_type),
        model: MessageModel::from_name(&data.message_model),
        from_where: ConsumeFromWhere::from_name(&data.consume_from_where),
        subscriptions,
    })
}

/// May a client subscribe so?
pub(super) fn check_client_config(request: &Request<'_>) -> Outcome {
    let body: CheckClientRequestBody = request.json()?;
    let wanted = body.subscription_data;
    Group::new(&body.group)?;
    Subscription::parse(Topic::new(&wanted.topic)?, &wanted.sub_string, &wanted.expression_type, wanted.sub_version)
        .map_err(|error: FilterError| Failure::from(error))?;
    Ok(Answer::success())
}

fn subscription_data(subscription: &Subscription) -> SubscriptionData {
    SubscriptionData {
        class_filter_mode: false,
        code_set: subscription.codes.clone(),
        expression_type: subscription.expression_type.clone(),
        sub_string: subscription.expression.clone(),
        sub_version: subscription.version,
        tags_set: subscription.tags.clone(),
        topic: subscription.topic.to_string(),
    }
}

fn connection(client: &ClientInfo) -> Connection {
    Connection {
        client_id: client.client_id.clone(),
        client_addr: client.address.to_string(),
        language: client.language.name().to_owned(),
        version: client.version,
    }
}

fn queues(wanted: &[MessageQueue]) -> Result<Vec<(Topic, QueueId)>, Failure> {
    wanted
        .iter()
        .map(|queue| {
            let id = QueueId::from_wire(queue.queue_id).ok_or_else(|| Failure::invalid(format!("{} is no queue number", queue.queue_id)))?;
            Ok((Topic::new(&queue.topic)?, id))
        })
        .collect()
}

struct LockRequest {
    group: Group,
    client_id: String,
    /// The queues in the client's own words, which the answer repeats.
    named: Vec<MessageQueue>,
    queues: Vec<(Topic, QueueId)>,
}

fn lock_request(request: &Request<'_>) -> Result<LockRequest, Failure> {
    let body: LockBatchRequestBody = request.json()?;
    let (group, queues) = (Group::new(&body.consumer_group)?, queues(&body.mq_set)?);
    Ok(LockRequest { group, client_id: client_id(body.client_id)?, named: body.mq_set, queues })
}

/// Who a client is, the groups it produces for, and those it consumes for.
pub(super) fn heartbeat_of_client(request: &Request<'_>) -> Result<(ClientInfo, Vec<Group>, Vec<ConsumerHeartbeat>), Failure> {
    let data: HeartbeatData = request.json()?;
    let groups = data.producer_data_set.len().max(data.consumer_data_set.len());
    if groups > HEARTBEAT_GROUPS_MAX {
        return Err(Failure::invalid(format!("the heartbeat names {groups} groups; the limit is {HEARTBEAT_GROUPS_MAX}")));
    }
    let client = ClientInfo {
        client_id: client_id(data.client_id)?,
        connection: request.connection.id(),
        address: request.peer(),
        language: request.header.language,
        version: request.header.version,
    };
    let producers = data.producer_data_set.iter().map(|producer| Group::new(&producer.group_name)).collect::<Result<Vec<_>, _>>()?;
    let consumers = data.consumer_data_set.into_iter().map(heartbeat_of).collect::<Result<Vec<_>, _>>()?;
    Ok((client, producers, consumers))
}

/// Which client leaves, and the groups that it leaves as a producer and as a consumer.
pub(super) fn leave_of_client(request: &Request<'_>) -> Result<(String, Option<Group>, Option<Group>), Failure> {
    let header: UnregisterClientRequest = request.fields()?;
    let group = |name: Option<&str>| name.filter(|name| !name.is_empty()).map(Group::new).transpose();
    let (producer, consumer) = (group(header.producer_group.as_deref())?, group(header.consumer_group.as_deref())?);
    Ok((header.client_id.to_string(), producer, consumer))
}

impl BrokerProcessor {
    pub(super) fn heartbeat(&self, request: &Request<'_>) -> Outcome {
        let (client, producers, consumers) = heartbeat_of_client(request)?;
        self.delivery.heartbeat(client, &producers, consumers);
        Ok(Answer::success())
    }

    pub(super) fn unregister_client(&self, request: &Request<'_>) -> Outcome {
        let (client, producer, consumer) = leave_of_client(request)?;
        self.delivery.unregister(&client, producer.as_ref(), consumer.as_ref());
        Ok(Answer::success())
    }

    pub(super) fn consumer_list(&self, request: &Request<'_>) -> Outcome {
        let header: GetConsumerListByGroupRequest = request.fields()?;
        match self.delivery.clients().consumer_ids(&header.consumer_group) {
            Some(consumer_id_list) if !consumer_id_list.is_empty() => Ok(Answer::json(&GetConsumerListByGroupResponseBody { consumer_id_list })),
            _ => Err(Failure::new(ResponseCode::SystemError, format!("no consumer for this group, {}", header.consumer_group))),
        }
    }

    pub(super) fn lock_queues(&self, request: &Request<'_>, reply: Reply) {
        let LockRequest { group, client_id, named, queues } = match lock_request(request) {
            Ok(wanted) => wanted,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let wanted = queues.clone();
        let done = move |locked: Vec<(Topic, QueueId)>| {
            let locked: HashSet<_> = locked.into_iter().collect();
            let lock_ok_mq_set = named.into_iter().zip(queues).filter(|(_, queue)| locked.contains(queue)).map(|(named, _)| named).collect();
            reply.outcome(Ok(Answer::json(&LockBatchResponseBody { lock_ok_mq_set })));
        };
        self.delivery.locks().lock(&group, &client_id, &wanted, Box::new(done));
    }

    pub(super) fn unlock_queues(&self, request: &Request<'_>) -> Outcome {
        let body: UnlockBatchRequestBody = request.json()?;
        self.delivery.locks().unlock(&Group::new(&body.consumer_group)?, &body.client_id, &queues(&body.mq_set)?);
        Ok(Answer::success())
    }

    pub(super) fn consumer_connections(&self, request: &Request<'_>) -> Outcome {
        let header: GetConsumerConnectionListRequest = request.fields()?;
        let offline = || Failure::new(ResponseCode::ConsumerNotOnline, format!("the consumer group {} has no member that is connected", header.consumer_group));
        let ConsumerGroupView { consume_type, model, from_where, subscriptions, members, .. } =
            self.delivery.clients().consumer_group(&header.consumer_group).ok_or_else(offline)?;
        Ok(Answer::json(&ConsumerConnection {
            connection_set: members.iter().map(connection).collect(),
            subscription_table: subscriptions.iter().map(|wanted| (wanted.topic.to_string(), subscription_data(wanted))).collect(),
            consume_type: consume_type.name().to_owned(),
            message_model: model.name().to_owned(),
            consume_from_where: from_where.name().to_owned(),
        }))
    }

    pub(super) fn producer_connections(&self, request: &Request<'_>) -> Outcome {
        let header: GetProducerConnectionListRequest = request.fields()?;
        let offline = || Failure::new(ResponseCode::SystemError, format!("the producer group {} has no member that is connected", header.producer_group));
        let members = self.delivery.clients().producer_group(&header.producer_group).ok_or_else(offline)?;
        Ok(Answer::json(&ProducerConnection { connection_set: members.iter().map(connection).collect() }))
    }

    pub(super) fn topic_consumed_by(&self, request: &Request<'_>) -> Outcome {
        let header: QueryTopicConsumeByWhoRequest = request.fields()?;
        // Those that are connected, and those that have been and left an offset.
        let mut groups: BTreeSet<Group> = self.delivery.clients().groups_of_topic(&header.topic).into_iter().collect();
        groups.extend(self.delivery.offsets().groups_of_topic(&header.topic));
        Ok(Answer::json(&GroupList { group_list: groups.iter().map(Group::to_string).collect() }))
    }

    pub(super) fn topics_of_consumer(&self, request: &Request<'_>) -> Outcome {
        let header: QueryTopicsByConsumerRequest = request.fields()?;
        let topics: BTreeSet<Topic> = self.delivery.offsets().list(&header.group).into_iter().map(|committed| committed.topic).collect();
        Ok(Answer::json(&TopicList { broker_addr: None, topic_list: topics.iter().map(Topic::to_string).collect() }))
    }

    pub(super) fn subscription_of_consumer(&self, request: &Request<'_>) -> Outcome {
        let header: QuerySubscriptionByConsumerRequest = request.fields()?;
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            group: String,
            topic: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            subscription_data: Option<SubscriptionData>,
        }
        let group = self.delivery.clients().consumer_group(&header.group);
        let wanted = group.and_then(|group| group.subscriptions.into_iter().find(|wanted| wanted.topic.as_str() == &*header.topic));
        Ok(Answer::json(&Body { group: header.group.to_string(), topic: header.topic.to_string(), subscription_data: wanted.as_ref().map(subscription_data) }))
    }
}
