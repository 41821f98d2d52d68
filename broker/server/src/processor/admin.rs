//! Topics and groups, as administrators see them.

use super::{Answer, BrokerProcessor, Failure, Outcome, Reply, Request, routes};
use sluice_delivery::{SubscriptionGroupConfig, TopicConfig, topics};
use sluice_protocol::{
    ResponseCode,
    body::{self, SubscriptionGroupWrapper, TopicConfigSerializeWrapper, TopicList},
    headers::{CreateTopicRequest, DeleteSubscriptionGroupRequest, DeleteTopicRequest, GetSubscriptionGroupConfigRequest, GetTopicConfigRequest},
};
use sluice_types::{Group, Topic};
use std::{collections::BTreeMap, sync::Arc};

/// Most attributes of a topic.
const ATTRIBUTES_MAX: usize = 64;

/// Applies changes such as `+message.type=FIFO,-cleanup.policy`.
fn change_attributes(attributes: &mut BTreeMap<String, String>, changes: &str) -> Result<(), Failure> {
    for change in changes.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        if let Some(name) = change.strip_prefix('-') {
            attributes.remove(name);
        } else if let Some((name, value)) = change.strip_prefix('+').and_then(|change| change.split_once('=')) {
            attributes.insert(name.to_owned(), value.to_owned());
        } else {
            let shown: String = change.chars().take(64).collect();
            return Err(Failure::invalid(format!("the attribute change {shown:?} is neither +name=value nor -name")));
        }
    }
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(Failure::invalid(format!("a topic can have {ATTRIBUTES_MAX} attributes, not {}", attributes.len())));
    }
    Ok(())
}

fn unsigned(what: &str, value: i32) -> Result<u32, Failure> {
    u32::try_from(value).map_err(|_| Failure::invalid(format!("{what} is {value}; it can't be negative")))
}

fn group_to_wire(group: &SubscriptionGroupConfig) -> body::SubscriptionGroupConfig {
    body::SubscriptionGroupConfig {
        attributes: group.attributes.clone(),
        broker_id: group.broker_id,
        consume_broadcast_enable: group.consume_broadcast_enable,
        consume_enable: group.consume_enable,
        consume_from_min_enable: group.consume_from_min_enable,
        consume_message_orderly: group.consume_message_orderly,
        consume_timeout_minute: group.consume_timeout_minute,
        group_name: group.group_name.to_string(),
        group_sys_flag: group.group_sys_flag,
        notify_consumer_ids_changed_enable: group.notify_consumer_ids_changed_enable,
        retry_max_times: group.retry_max_times,
        retry_queue_nums: group.retry_queue_nums.cast_signed(),
        which_broker_when_consume_slowly: group.which_broker_when_consume_slowly,
        ..body::SubscriptionGroupConfig::default()
    }
}

fn group_from_wire(group: body::SubscriptionGroupConfig) -> Result<SubscriptionGroupConfig, Failure> {
    Ok(SubscriptionGroupConfig {
        consume_enable: group.consume_enable,
        consume_from_min_enable: group.consume_from_min_enable,
        consume_broadcast_enable: group.consume_broadcast_enable,
        consume_message_orderly: group.consume_message_orderly,
        retry_queue_nums: unsigned("retryQueueNums", group.retry_queue_nums)?,
        retry_max_times: group.retry_max_times,
        broker_id: group.broker_id,
        which_broker_when_consume_slowly: group.which_broker_when_consume_slowly,
        notify_consumer_ids_changed_enable: group.notify_consumer_ids_changed_enable,
        group_sys_flag: group.group_sys_flag,
        consume_timeout_minute: group.consume_timeout_minute,
        attributes: group.attributes,
        ..SubscriptionGroupConfig::new(Group::new(&group.group_name)?)
    })
}

fn done<E: Into<Failure>>(reply: Reply) -> Box<dyn FnOnce(Result<(), E>) + Send> {
    Box::new(move |result| reply.outcome(result.map(|()| Answer::success()).map_err(Into::into)))
}

impl BrokerProcessor {
    fn topic_from(&self, request: &Request<'_>) -> Result<TopicConfig, Failure> {
        let header: CreateTopicRequest = request.fields()?;
        let name = Topic::new(&header.topic)?;
        let mut attributes = self.delivery.topics().get(name.as_str()).map(|topic| topic.attributes.clone()).unwrap_or_default();
        change_attributes(&mut attributes, header.attributes.as_deref().unwrap_or(""))?;
        Ok(TopicConfig {
            read_queues: unsigned("readQueueNums", header.read_queue_nums)?,
            write_queues: unsigned("writeQueueNums", header.write_queue_nums)?,
            perm: unsigned("perm", header.perm)?,
            sys_flag: header.topic_sys_flag.unwrap_or(0),
            order: header.order,
            attributes,
            name,
        })
    }

    pub(super) fn put_topic(&self, request: &Request<'_>, reply: Reply) {
        match self.topic_from(request) {
            Ok(topic) => {
                let changed = self.changed(&topic.name, reply);
                self.delivery.topics().put(topic, changed);
            }
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    /// Answers once name servers know the change: whoever then asks for the route gets the right one, and no registration from before it is still on its way.
    fn changed<E: Into<Failure> + Send + 'static>(&self, topic: &Topic, reply: Reply) -> Box<dyn FnOnce(Result<(), E>) + Send> {
        let (told, topic) = (Arc::clone(&self.told), topic.to_string());
        Box::new(move |result| match result {
            Ok(()) => told.when_told(topic, move || reply.outcome(Ok(Answer::success()))),
            Err(error) => reply.outcome(Err(error.into())),
        })
    }

    pub(super) fn delete_topic(&self, request: &Request<'_>, reply: Reply) {
        let topic = request.fields::<DeleteTopicRequest>().and_then(|header| Ok(Topic::new(&header.topic)?));
        match topic {
            Ok(topic) => self.delivery.delete_topic(&topic, self.changed(&topic, reply)),
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    pub(super) fn all_topics(&self) -> Outcome {
        let topics = self.delivery.topics();
        let topic_config_table = topics.list().iter().map(|topic| (topic.name.to_string(), routes::topic_to_wire(topic))).collect();
        Ok(Answer::json(&TopicConfigSerializeWrapper { data_version: routes::version_to_wire(topics.version()), topic_config_table }))
    }

    pub(super) fn topic_config(&self, request: &Request<'_>) -> Outcome {
        let header: GetTopicConfigRequest = request.fields()?;
        match self.delivery.topics().get(&header.topic) {
            Some(topic) => Ok(Answer::json(&routes::topic_to_wire(&topic))),
            None => Err(Failure::new(ResponseCode::TopicNotExist, format!("the topic {} does not exist on this broker", header.topic))),
        }
    }

    pub(super) fn system_topics(&self) -> Outcome {
        let all = self.delivery.topics().list();
        let topic_list = all.iter().filter(|topic| topics::is_system(topic.name.as_str())).map(|topic| topic.name.to_string()).collect();
        Ok(Answer::json(&TopicList { broker_addr: None, topic_list }))
    }

    pub(super) fn put_group(&self, request: &Request<'_>, reply: Reply) {
        match request.json().and_then(group_from_wire) {
            Ok(group) => self.delivery.groups().put(group, done(reply)),
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    pub(super) fn delete_group(&self, request: &Request<'_>, reply: Reply) {
        let header = request.fields::<DeleteSubscriptionGroupRequest>().and_then(|header| Ok((Group::new(&header.group_name)?, header.clean_offset)));
        match header {
            Ok((group, clean_offsets)) => self.delivery.delete_group(&group, clean_offsets, done(reply)),
            Err(failure) => reply.outcome(Err(failure)),
        }
    }

    pub(super) fn all_groups(&self) -> Outcome {
        let groups = self.delivery.groups();
        let subscription_group_table = groups.list().iter().map(|group| (group.group_name.to_string(), group_to_wire(group))).collect();
        Ok(Answer::json(&SubscriptionGroupWrapper {
            data_version: routes::version_to_wire(groups.version()),
            forbidden_table: BTreeMap::new(),
            subscription_group_table,
        }))
    }

    pub(super) fn group_config(&self, request: &Request<'_>) -> Outcome {
        let header: GetSubscriptionGroupConfigRequest = request.fields()?;
        match self.delivery.groups().get(&header.group) {
            Some(group) => Ok(Answer::json(&group_to_wire(&group))),
            None => Err(Failure::new(ResponseCode::SubscriptionGroupNotExist, format!("the consumer group {} does not exist on this broker", header.group))),
        }
    }
}
