//! Topics, groups, offsets and look-ups.

use crate::{
    Client, ClientError, QueueAddress, ReceivedMessage, Request,
    body::{ConsumeStats, TopicStats, by_queue},
    client::malformed,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_protocol::{
    ExtFields, Frame, RequestCode, ResponseCode, TypedHeader, WireStr,
    body::{
        ConsumerConnection, EpochCache, GetConsumerListByGroupResponseBody, GroupList, GroupStatus, KvTable, SubscriptionGroupConfig, SubscriptionGroupWrapper,
        TopicConfig, TopicList, from_json, to_json,
    },
    headers::{
        CreateTopicRequest, DeleteSubscriptionGroupRequest, DeleteTopicFromNamesrvRequest, DeleteTopicRequest, GetConsumeStatsRequest,
        GetConsumerConnectionListRequest, GetConsumerListByGroupRequest, GetMaxOffsetRequest, GetMaxOffsetResponse, GetMinOffsetRequest, GetMinOffsetResponse,
        GetSubscriptionGroupConfigRequest, GetTopicConfigRequest, GetTopicStatsInfoRequest, QueryMessageRequest, QueryTopicConsumeByWhoRequest,
        SearchOffsetRequest, SearchOffsetResponse, ViewMessageRequest,
    },
    message_id::{MessageIdError, OffsetMessageId},
    record::RecordView,
};
use sluice_types::{Group, Topic};
use std::collections::BTreeSet;

/// What a topic shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicSettings {
    /// Topic.
    pub topic: String,
    /// Queues consumers read.
    pub read_queues: u32,
    /// Queues producers write.
    pub write_queues: u32,
    /// 2 write, 4 read, 1 inherit.
    pub perm: i32,
    /// Whether its order matters.
    pub order: bool,
    /// Attributes, as `+name=value`.
    pub attributes: Vec<String>,
}

/// First and end entry of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueRange {
    /// Name of the broker.
    pub broker: String,
    /// Queue number.
    pub queue_id: i32,
    /// First entry.
    pub min_offset: i64,
    /// One past the last entry.
    pub max_offset: i64,
    /// When the last message was stored, ms since 1970; 0 when not known.
    pub last_update: i64,
}

/// How far a group is in one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueLag {
    /// Topic.
    pub topic: String,
    /// Name of the broker.
    pub broker: String,
    /// Queue number.
    pub queue_id: i32,
    /// One past the queue's last entry.
    pub broker_offset: i64,
    /// Next entry the group wants.
    pub consumer_offset: i64,
    /// Entries the group has before it.
    pub lag: i64,
    /// When the last consumed message was stored, ms since 1970; 0 when not known.
    pub last_consumed: i64,
}

/// A member's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsumerClient {
    /// The member's id.
    pub client_id: String,
    /// Its address.
    pub addr: String,
    /// Its language.
    pub language: String,
    /// Its version's number.
    pub version: i32,
}

/// What a group does, over all brokers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupSummary {
    /// Group.
    pub group: String,
    /// Whether a broker has an entry for it.
    pub known: bool,
    /// Members.
    pub clients: Vec<ConsumerClient>,
    /// Where it is in each queue.
    pub queues: Vec<QueueLag>,
    /// Messages a second.
    pub consume_tps: f64,
}

/// Administers a cluster.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Administers the client's cluster.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Addresses of all masters, or of one cluster's.
    pub async fn masters(&self, cluster: Option<&str>) -> Result<Vec<String>, ClientError> {
        let info = self.client.cluster().await?;
        let masters: Vec<String> = info.masters(cluster).map(|b| b.addr.clone()).collect();
        if masters.is_empty() {
            let what = cluster.map_or_else(|| "no broker".to_owned(), |c| format!("no broker of cluster {c}"));
            return Err(ClientError::Unreachable { addr: self.client.namesrv().join(";"), reason: format!("the name server knows {what}") });
        }
        Ok(masters)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn call(&self, addr: &str, code: RequestCode, ext: ExtFields) -> Result<Frame, ClientError> {
        self.client.call(addr, Request::new(code, ext)).await
    }

    async fn header<H: TypedHeader>(&self, addr: &str, code: RequestCode, ext: ExtFields) -> Result<H, ClientError> {
        let frame = self.call(addr, code, ext).await?;
        H::decode(&frame.header.ext).map_err(|e| malformed(addr, code.to_wire(), &e))
    }

    async fn body<B: DeserializeOwned>(&self, addr: &str, code: RequestCode, ext: ExtFields) -> Result<B, ClientError> {
        let frame = self.call(addr, code, ext).await?;
        from_json(&frame.body).map_err(|e| malformed(addr, code.to_wire(), &e))
    }

    /// Creates a topic on these brokers. One that is there already is changed to these settings, all of them: look with [`Admin::topic_config`] first.
    pub async fn create_topic(&self, brokers: &[String], settings: &TopicSettings) -> Result<(), ClientError> {
        let config = TopicConfig {
            topic_name: settings.topic.clone(),
            read_queue_nums: settings.read_queues as i32,
            write_queue_nums: settings.write_queues as i32,
            perm: settings.perm,
            order: settings.order,
            ..TopicConfig::default()
        };
        for broker in brokers {
            self.put_topic(broker, &config, &settings.attributes).await?;
        }
        Ok(())
    }

    /// Gives a topic these settings at one broker. Its attributes there change by `+name=value` and `-name`, whatever stands in the configuration.
    pub async fn put_topic(&self, broker: &str, config: &TopicConfig, attributes: &[String]) -> Result<(), ClientError> {
        Topic::new(&config.topic_name)?;
        let header = CreateTopicRequest {
            topic: config.topic_name.as_str().into(),
            default_topic: WireStr::from_static("TBW102"),
            read_queue_nums: config.read_queue_nums,
            write_queue_nums: config.write_queue_nums,
            perm: config.perm,
            topic_filter_type: config.topic_filter_type.as_str().into(),
            topic_sys_flag: Some(config.topic_sys_flag),
            order: config.order,
            attributes: (!attributes.is_empty()).then(|| attributes.join(",").into()),
            force: None,
        };
        self.call(broker, RequestCode::UpdateAndCreateTopic, header.encode()).await.map(drop)
    }

    /// Deletes a topic from these brokers and from the name servers.
    pub async fn delete_topic(&self, brokers: &[String], topic: &str) -> Result<(), ClientError> {
        for broker in brokers {
            self.call(broker, RequestCode::DeleteTopicInBroker, DeleteTopicRequest { topic: topic.into() }.encode()).await?;
        }
        let header = DeleteTopicFromNamesrvRequest { topic: topic.into(), cluster_name: None };
        for namesrv in self.client.namesrv() {
            self.call(namesrv, RequestCode::DeleteTopicInNamesrv, header.encode()).await?;
        }
        Ok(())
    }

    /// All topics the name server knows, sorted.
    pub async fn topics(&self) -> Result<Vec<String>, ClientError> {
        let code = RequestCode::GetAllTopicListFromNameserver;
        let frame = self.client.call_namesrv(Request::new(code, ExtFields::new())).await?;
        let mut list: TopicList = from_json(&frame.body).map_err(|e| self.client.malformed_namesrv(code, &e))?;
        list.topic_list.sort();
        Ok(list.topic_list)
    }

    /// A topic's settings at one broker; `None` when the broker does not have it.
    pub async fn topic_config(&self, broker: &str, topic: &str) -> Result<Option<TopicConfig>, ClientError> {
        let found = self.body(broker, RequestCode::GetTopicConfig, GetTopicConfigRequest { topic: topic.into() }.encode()).await;
        unless(found, ResponseCode::TopicNotExist)
    }

    /// First and end entries of all queues of a topic.
    pub async fn topic_ranges(&self, topic: &str) -> Result<Vec<QueueRange>, ClientError> {
        let mut ranges = Vec::new();
        for broker in self.client.route(topic).await?.masters() {
            let code = RequestCode::GetTopicStatsInfo;
            let stats: TopicStats = self.body(&broker, code, GetTopicStatsInfoRequest { topic: topic.into() }.encode()).await?;
            let queues = by_queue(stats.offset_table).map_err(|e| malformed(&broker, code.to_wire(), &e))?;
            ranges.extend(queues.into_iter().map(|(queue, offsets)| QueueRange {
                broker: queue.broker_name,
                queue_id: queue.queue_id,
                min_offset: offsets.min_offset,
                max_offset: offsets.max_offset,
                last_update: offsets.last_update_timestamp,
            }));
        }
        ranges.sort_by(|a, b| (&a.broker, a.queue_id).cmp(&(&b.broker, b.queue_id)));
        Ok(ranges)
    }

    /// Groups that consume a topic.
    pub async fn topic_groups(&self, topic: &str) -> Result<Vec<String>, ClientError> {
        let mut groups = BTreeSet::new();
        for broker in self.client.route(topic).await?.masters() {
            let list: GroupList =
                self.body(&broker, RequestCode::QueryTopicConsumeByWho, QueryTopicConsumeByWhoRequest { topic: topic.into() }.encode()).await?;
            groups.extend(list.group_list);
        }
        Ok(groups.into_iter().collect())
    }

    /// All groups of all brokers, sorted.
    pub async fn groups(&self) -> Result<Vec<SubscriptionGroupConfig>, ClientError> {
        let mut groups: Vec<SubscriptionGroupConfig> = Vec::new();
        for broker in self.masters(None).await? {
            let wrapper: SubscriptionGroupWrapper = self.body(&broker, RequestCode::GetAllSubscriptiongroupConfig, ExtFields::new()).await?;
            groups.extend(wrapper.subscription_group_table.into_values());
        }
        groups.sort_by(|a, b| a.group_name.cmp(&b.group_name));
        groups.dedup_by(|a, b| a.group_name == b.group_name);
        Ok(groups)
    }

    /// A group's settings at one broker; `None` when the broker does not have it.
    pub async fn group_config(&self, broker: &str, group: &str) -> Result<Option<SubscriptionGroupConfig>, ClientError> {
        let header = GetSubscriptionGroupConfigRequest { group: group.into() };
        unless(self.body(broker, RequestCode::GetSubscriptiongroupConfig, header.encode()).await, ResponseCode::SubscriptionGroupNotExist)
    }

    /// Creates a group on these brokers. One that is there already is changed to these settings, all of them: look with [`Admin::group_config`] first.
    pub async fn create_group(&self, brokers: &[String], config: &SubscriptionGroupConfig) -> Result<(), ClientError> {
        Group::new(&config.group_name)?;
        for broker in brokers {
            let request = Request::new(RequestCode::UpdateAndCreateSubscriptiongroup, ExtFields::new()).with_body(to_json(config));
            self.client.call(broker, request).await?;
        }
        Ok(())
    }

    /// Deletes a group and its offsets from these brokers.
    pub async fn delete_group(&self, brokers: &[String], group: &str) -> Result<(), ClientError> {
        let header = DeleteSubscriptionGroupRequest { group_name: group.into(), clean_offset: true };
        for broker in brokers {
            self.call(broker, RequestCode::DeleteSubscriptiongroup, header.encode()).await?;
        }
        Ok(())
    }

    /// A group's members and how far it is in its queues, over all brokers, of one topic or of all.
    pub async fn group(&self, group: &str, topic: Option<&str>) -> Result<GroupSummary, ClientError> {
        Group::new(group)?;
        let mut summary = GroupSummary { group: group.to_owned(), ..GroupSummary::default() };
        for broker in self.masters(None).await? {
            self.group_stats(&broker, topic, &mut summary).await?;
            self.group_clients(&broker, &mut summary).await?;
        }
        // Asked for one topic, brokers list its queues for whatever group, with nothing consumed.
        summary.known = !summary.clients.is_empty() || topic.is_none() && !summary.queues.is_empty();
        if !summary.known {
            summary.known = self.groups().await?.iter().any(|g| g.group_name == group);
        }
        summary.queues.sort_by(|a, b| (&a.topic, &a.broker, a.queue_id).cmp(&(&b.topic, &b.broker, b.queue_id)));
        Ok(summary)
    }

    async fn group_stats(&self, broker: &str, topic: Option<&str>, summary: &mut GroupSummary) -> Result<(), ClientError> {
        let code = RequestCode::GetConsumeStats;
        let header = GetConsumeStatsRequest { consumer_group: summary.group.as_str().into(), topic: topic.map(Into::into), topic_list: None };
        let stats: ConsumeStats = match self.body(broker, code, header.encode()).await {
            // A group that the broker has never heard of has no offsets there.
            Err(ClientError::Refused { .. }) => return Ok(()),
            other => other?,
        };
        summary.consume_tps += stats.consume_tps;
        let queues = by_queue(stats.offset_table).map_err(|e| malformed(broker, code.to_wire(), &e))?;
        summary.queues.extend(queues.into_iter().map(|(queue, at)| QueueLag {
            topic: queue.topic,
            broker: queue.broker_name,
            queue_id: queue.queue_id,
            broker_offset: at.broker_offset,
            consumer_offset: at.consumer_offset,
            lag: (at.broker_offset - at.consumer_offset).max(0),
            last_consumed: at.last_timestamp,
        }));
        Ok(())
    }

    async fn group_clients(&self, broker: &str, summary: &mut GroupSummary) -> Result<(), ClientError> {
        let header = GetConsumerConnectionListRequest { consumer_group: summary.group.as_str().into() };
        let clients: ConsumerConnection = match self.body(broker, RequestCode::GetConsumerConnectionList, header.encode()).await {
            // No member is on line.
            Err(ClientError::Refused { .. }) => return Ok(()),
            other => other?,
        };
        for client in clients.connection_set {
            // A member is connected to every broker.
            if !summary.clients.iter().any(|c| c.client_id == client.client_id) {
                summary.clients.push(ConsumerClient {
                    client_id: client.client_id,
                    addr: client.client_addr,
                    language: client.language,
                    version: client.version,
                });
            }
        }
        Ok(())
    }

    /// Ids of a group's members at one broker.
    pub async fn consumer_ids(&self, broker: &str, group: &str) -> Result<Vec<String>, ClientError> {
        let header = GetConsumerListByGroupRequest { consumer_group: group.into() };
        let list: GetConsumerListByGroupResponseBody = self.body(broker, RequestCode::GetConsumerListByGroup, header.encode()).await?;
        Ok(list.consumer_id_list)
    }

    /// One past a queue's last entry.
    pub async fn max_offset(&self, topic: &str, queue: &QueueAddress) -> Result<i64, ClientError> {
        let header = GetMaxOffsetRequest { topic: topic.into(), queue_id: queue.queue_id as i32, committed: true };
        Ok(self.header::<GetMaxOffsetResponse>(&queue.addr, RequestCode::GetMaxOffset, header.encode()).await?.offset)
    }

    /// A queue's first entry.
    pub async fn min_offset(&self, topic: &str, queue: &QueueAddress) -> Result<i64, ClientError> {
        let header = GetMinOffsetRequest { topic: topic.into(), queue_id: queue.queue_id as i32 };
        Ok(self.header::<GetMinOffsetResponse>(&queue.addr, RequestCode::GetMinOffset, header.encode()).await?.offset)
    }

    /// The first entry stored at or after a time, ms since 1970.
    pub async fn search_offset(&self, topic: &str, queue: &QueueAddress, timestamp: i64) -> Result<i64, ClientError> {
        let header = SearchOffsetRequest { topic: topic.into(), queue_id: queue.queue_id as i32, timestamp, boundary_type: None };
        Ok(self.header::<SearchOffsetResponse>(&queue.addr, RequestCode::SearchOffsetByTimestamp, header.encode()).await?.offset)
    }

    /// Messages with a key, or with a unique id, stored between two times; the youngest `max`.
    pub async fn query(&self, topic: &str, key: &str, unique: bool, max: u32, between: (i64, i64)) -> Result<Vec<ReceivedMessage>, ClientError> {
        let header = QueryMessageRequest {
            topic: topic.into(),
            key: key.into(),
            max_num: i32::try_from(max).unwrap_or(i32::MAX),
            begin_timestamp: between.0,
            end_timestamp: between.1,
            unique_key: unique,
        };
        let mut found = Vec::new();
        for broker in self.client.route(topic).await?.masters() {
            let code = RequestCode::QueryMessage;
            match self.call(&broker, code, header.encode()).await {
                Ok(frame) => found.extend(ReceivedMessage::all_from(&frame.body).map_err(|e| malformed(&broker, code.to_wire(), &e))?),
                Err(error) if error.is_refusal(ResponseCode::QueryNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        // The index compares hashes; what only collides is not meant.
        found.retain(
            |m| if unique { m.unique_id() == Some(key) } else { m.keys().is_some_and(|k| k.split(' ').any(|k| k == key)) || m.unique_id() == Some(key) },
        );
        found.sort_by_key(|m| m.store_timestamp);
        if found.is_empty() {
            Err(ClientError::NoMessage { what: format!("{} {key:?} in topic {topic}", if unique { "unique id" } else { "key" }) })
        } else {
            Ok(found)
        }
    }

    /// The message with an offset message id.
    pub async fn message(&self, topic: Option<&str>, id: &str) -> Result<ReceivedMessage, ClientError> {
        let id = OffsetMessageId::decode(id).map_err(|e: MessageIdError| ClientError::Message(format!("{id:?} is no offset message id: {e}")))?;
        let header = ViewMessageRequest { topic: topic.map(Into::into), offset: id.log_offset };
        let (broker, code) = (id.store_host.to_string(), RequestCode::ViewMessageById);
        let frame = self.call(&broker, code, header.encode()).await?;
        let view = RecordView::parse(&frame.body).map_err(|e| malformed(&broker, code.to_wire(), &e))?;
        ReceivedMessage::from_record(&view, &frame.body).map_err(|e| malformed(&broker, code.to_wire(), &e))
    }

    /// What a broker says of itself, name by name.
    pub async fn broker_stats(&self, broker: &str) -> Result<Vec<(String, String)>, ClientError> {
        let table: KvTable = self.body(broker, RequestCode::GetBrokerRuntimeInfo, ExtFields::new()).await?;
        Ok(table.table.into_iter().collect())
    }

    /// A member of a replicating group, as it sees itself and its group.
    pub async fn group_status(&self, broker: &str) -> Result<GroupStatus, ClientError> {
        self.body(broker, RequestCode::SluiceGroupStatus, ExtFields::new()).await
    }

    /// The epochs of a member's log.
    pub async fn epochs(&self, broker: &str) -> Result<EpochCache, ClientError> {
        self.body(broker, RequestCode::GetBrokerEpochCache, ExtFields::new()).await
    }

    /// Makes that member master though it is not in the in-sync set.
    pub async fn elect_unclean(&self, broker: &str) -> Result<(), ClientError> {
        self.call(broker, RequestCode::SluiceElectUnclean, ExtFields::new()).await.map(drop)
    }

    /// Lets that replica give up its log and take the master's whole.
    pub async fn resync(&self, broker: &str) -> Result<(), ClientError> {
        self.call(broker, RequestCode::SluiceResync, ExtFields::new()).await.map(drop)
    }

    /// Lets that member of the group be master, or the one that has most of the log; what the old master says of it.
    pub async fn switch_over(&self, master: &str, to: Option<u32>) -> Result<String, ClientError> {
        let mut ext = ExtFields::new();
        if let Some(to) = to {
            ext.insert_integer("to", to);
        }
        let frame = self.call(master, RequestCode::SluiceSwitchover, ext).await?;
        Ok(frame.header.remark.map(|remark| remark.to_string()).unwrap_or_default())
    }
}

/// `None` for a refusal with this code.
fn unless<T>(found: Result<T, ClientError>, missing: ResponseCode) -> Result<Option<T>, ClientError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_refusal(missing) => Ok(None),
        Err(error) => Err(error),
    }
}
