//! The name server's requests.

use super::{Answer, Aside, Code, Failure, Outcome, Reply, Request};
use crate::net::Connection;
use sluice_naming::{BrokerId, KvConfig, Lifetime, Registration, RouteError, RouteTable};
use sluice_protocol::{
    ExtFields, RequestCode, ResponseCode, TypedHeader,
    body::{self, DataVersion, GetBrokerMemberGroupResponseBody, KvTable, RegisterBrokerBody, TopicList, TopicRouteData},
    headers::{
        AddWritePermOfBrokerResponse, BrokerHeartbeatRequest, DeleteTopicFromNamesrvRequest, GetBrokerMemberGroupRequest, GetKvConfigResponse,
        GetKvListByNamespaceRequest, GetRouteInfoRequest, GetTopicsByClusterRequest, KvConfigRequest, PutKvConfigRequest, QueryDataVersionRequest,
        QueryDataVersionResponse, RegisterBrokerRequest, RegisterBrokerResponse, RegisterTopicRequest, UnregisterBrokerRequest, WipeWritePermOfBrokerResponse,
        WritePermOfBrokerRequest,
    },
};
use sluice_store::{AppendError, Batch, MetaChange, MetaTable, Store, Wait};
use sluice_types::Topic;
use std::{sync::Arc, time::Duration};

/// A larger registration is not read on a connection's thread: some thousand topics.
const REGISTERED_AT_ONCE_BYTES_MAX: usize = 256 * 1024;
/// In the header of a registration by a member of a group whose master always has the group's address. Other name servers do not look at it.
pub(crate) const OF_GROUP: &str = "sluiceOfGroup";
/// Between namespace and key in the store.
const KEY_SEPARATOR: char = '\u{1}';

/// The name server's requests.
pub struct NamingProcessor {
    table: Arc<RouteTable>,
    store: Arc<Store>,
    /// One at a time: a compressed one may inflate to 16 MiB of topics.
    large_registrations: Aside,
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        let code = match &error {
            RouteError::Incomplete(_) => ResponseCode::InvalidParameter,
            RouteError::TooManyBrokers(_) | RouteError::TooManyTopics(_) | RouteError::Newer { .. } => ResponseCode::SystemError,
        };
        Self::new(code, error.to_string())
    }
}

impl NamingProcessor {
    /// Answers from `table`. Key-value configuration is kept in `store`.
    #[must_use]
    pub fn new(table: Arc<RouteTable>, store: Arc<Store>) -> Self {
        for (name, value) in store.meta(MetaTable::KvConfig) {
            let kept = name.split_once(KEY_SEPARATOR).zip(String::from_utf8(value).ok());
            let taken = kept.map(|((namespace, key), value)| table.kv().put(namespace, key, &value));
            if !matches!(taken, Some(Ok(()))) {
                tracing::warn!(name, "a stored value of the key-value configuration can't be used; it is left out");
            }
        }
        Self { table, store, large_registrations: Aside::new(1) }
    }

    pub(super) fn handle(&self, code: RequestCode, request: &Request<'_>, reply: Reply) {
        let outcome = match code {
            Code::GetRouteinfoByTopic => self.route(request),
            Code::GetBrokerClusterInfo => Ok(Answer::json(&self.table.cluster_info())),
            Code::RegisterBroker => return self.register(request, reply),
            Code::UnregisterBroker => self.unregister(request),
            Code::BrokerHeartbeat => self.heartbeat(request),
            Code::QueryDataVersion => self.query_data_version(request),
            Code::GetBrokerMemberGroup => self.member_group(request),
            Code::GetAllTopicListFromNameserver => Ok(topic_list(self.table.topics(), None)),
            Code::GetTopicsByCluster => self.topics_by_cluster(request),
            Code::GetSystemTopicListFromNs => {
                let (names, address) = self.table.system_topics();
                Ok(topic_list(names, address))
            }
            Code::DeleteTopicInNamesrv => self.delete_topic(request),
            Code::RegisterTopicInNamesrv => self.register_topic(request),
            Code::WipeWritePermOfBroker => self.write_permission(request, false),
            Code::AddWritePermOfBroker => self.write_permission(request, true),
            Code::PutKvConfig => return self.put_kv(request, reply),
            Code::DeleteKvConfig => return self.delete_kv(request, reply),
            Code::GetKvConfig => self.get_kv(request),
            Code::GetKvlistByNamespace => self.list_kv(request),
            Code::UpdateNamesrvConfig => Err(Failure::not_allowed("the name server's configuration is read at its start; change it there and restart")),
            _ => return reply.not_supported(),
        };
        reply.outcome(outcome);
    }

    fn route(&self, request: &Request<'_>) -> Outcome {
        let header: GetRouteInfoRequest = request.fields()?;
        match self.table.route(&header.topic) {
            Some(route) => Ok(Answer::json(&route)),
            None => Err(Failure::new(
                ResponseCode::TopicNotExist,
                format!("No topic route info in name server for the topic: {}; no broker that is registered here has it", header.topic),
            )),
        }
    }

    /// A small registration is taken at once, a large or compressed one elsewhere and after those that came before: it may keep a processor busy for long, and
    /// a connection's thread carries other connections too.
    fn register(&self, request: &Request<'_>, reply: Reply) {
        let header: RegisterBrokerRequest = match request.fields() {
            Ok(header) => header,
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let (table, connection, body) = (Arc::clone(&self.table), Arc::clone(request.connection), request.body.clone());
        let of_group = request.header.ext.get(OF_GROUP).is_some();
        if !header.compressed && body.len() <= REGISTERED_AT_ONCE_BYTES_MAX {
            return reply.outcome(register(&table, &connection, &header, of_group, &body));
        }
        self.large_registrations.run(reply, move || register(&table, &connection, &header, of_group, &body));
    }

    /// A connection has ended: a broker that registered over it is no longer there, as far as anybody knows.
    pub(super) fn connection_closed(&self, connection: &Connection) {
        forget(&self.table, connection);
    }

    fn unregister(&self, request: &Request<'_>) -> Outcome {
        let header: UnregisterBrokerRequest = request.fields()?;
        self.table.unregister(&BrokerId {
            cluster: header.cluster_name.to_string(),
            name: header.broker_name.to_string(),
            id: header.broker_id,
            address: header.broker_addr.to_string(),
        });
        Ok(Answer::success())
    }

    fn heartbeat(&self, request: &Request<'_>) -> Outcome {
        let header: BrokerHeartbeatRequest = request.fields()?;
        // Of a broker that is not registered there is nothing to keep; it registers by itself.
        self.table.heartbeat(&header.cluster_name, &header.broker_addr);
        Ok(Answer::success())
    }

    fn query_data_version(&self, request: &Request<'_>) -> Outcome {
        let header: QueryDataVersionRequest = request.fields()?;
        let theirs: DataVersion = request.json()?;
        let ours = self.table.version(&header.cluster_name, &header.broker_addr);
        self.table.heartbeat(&header.cluster_name, &header.broker_addr);
        let fields = QueryDataVersionResponse { changed: ours.as_ref() != Some(&theirs) };
        let body = ours.map(|version| body::to_json(&version).into()).into_iter().collect();
        Ok(Answer { body, ..Answer::fields(&fields) })
    }

    fn member_group(&self, request: &Request<'_>) -> Outcome {
        let header: GetBrokerMemberGroupRequest = request.fields()?;
        let broker_member_group = self.table.members(&header.cluster_name, &header.broker_name);
        Ok(Answer::json(&GetBrokerMemberGroupResponseBody { broker_member_group }))
    }

    fn topics_by_cluster(&self, request: &Request<'_>) -> Outcome {
        let header: GetTopicsByClusterRequest = request.fields()?;
        Ok(topic_list(self.table.topics_of_cluster(&header.cluster), None))
    }

    fn delete_topic(&self, request: &Request<'_>) -> Outcome {
        let header: DeleteTopicFromNamesrvRequest = request.fields()?;
        self.table.delete_topic(&header.topic, header.cluster_name.as_deref().filter(|cluster| !cluster.is_empty()));
        Ok(Answer::success())
    }

    fn register_topic(&self, request: &Request<'_>) -> Outcome {
        let header: RegisterTopicRequest = request.fields()?;
        let route: TopicRouteData = request.json()?;
        self.table.put_route(Topic::new(&header.topic)?.as_str(), route.queue_datas)?;
        Ok(Answer::success())
    }

    fn write_permission(&self, request: &Request<'_>, allowed: bool) -> Outcome {
        let header: WritePermOfBrokerRequest = request.fields()?;
        let touched = i32::try_from(self.table.set_write_permission(&header.broker_name, allowed)).unwrap_or(i32::MAX);
        tracing::info!(broker = %header.broker_name, allowed, topics = touched, "the write permission was changed");
        let ext: ExtFields = if allowed {
            AddWritePermOfBrokerResponse { add_topic_count: touched }.encode()
        } else {
            WipeWritePermOfBrokerResponse { wipe_topic_count: touched }.encode()
        };
        Ok(Answer { ext, ..Answer::success() })
    }

    fn get_kv(&self, request: &Request<'_>) -> Outcome {
        let header: KvConfigRequest = request.fields()?;
        match self.table.kv().get(&header.namespace, &header.key) {
            Some(value) => Ok(Answer::fields(&GetKvConfigResponse { value: Some(value.into()) })),
            None => {
                let remark = format!("No config item, Namespace: {} Key: {}", header.namespace, header.key);
                Err(Failure::new(ResponseCode::QueryNotFound, remark))
            }
        }
    }

    fn list_kv(&self, request: &Request<'_>) -> Outcome {
        let header: GetKvListByNamespaceRequest = request.fields()?;
        match self.table.kv().list(&header.namespace) {
            Some(table) => Ok(Answer::json(&KvTable { table })),
            None => Err(Failure::new(ResponseCode::QueryNotFound, format!("No config item, Namespace: {}", header.namespace))),
        }
    }

    fn put_kv(&self, request: &Request<'_>, reply: Reply) {
        let header = request.fields::<PutKvConfigRequest>().and_then(|header| match KvConfig::check(&header.namespace, &header.key, &header.value) {
            Ok(()) => Ok(header),
            Err(error) => Err(Failure::invalid(error.to_string())),
        });
        let (namespace, key, value) = match header {
            Ok(header) => (header.namespace.to_string(), header.key.to_string(), header.value.to_string()),
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let table = Arc::clone(&self.table);
        self.keep(&namespace.clone(), &key.clone(), Some(value.clone()), move |stored| {
            let put =
                stored.map_err(Failure::from).and_then(|()| table.kv().put(&namespace, &key, &value).map_err(|error| Failure::invalid(error.to_string())));
            reply.outcome(put.map(|()| Answer::success()));
        });
    }

    fn delete_kv(&self, request: &Request<'_>, reply: Reply) {
        let (namespace, key) = match request.fields::<KvConfigRequest>() {
            Ok(header) => (header.namespace.to_string(), header.key.to_string()),
            Err(failure) => return reply.outcome(Err(failure)),
        };
        let table = Arc::clone(&self.table);
        self.keep(&namespace.clone(), &key.clone(), None, move |stored| {
            reply.outcome(stored.map_err(Failure::from).map(|()| {
                table.kv().delete(&namespace, &key);
                Answer::success()
            }));
        });
    }

    /// Writes a value into the store, and then goes on.
    fn keep(&self, namespace: &str, key: &str, value: Option<String>, done: impl FnOnce(Result<(), AppendError>) + Send + 'static) {
        let change = MetaChange { table: MetaTable::KvConfig, key: format!("{namespace}{KEY_SEPARATOR}{key}"), value: value.map(String::into_bytes) };
        let mut batch = Batch::new();
        match batch.meta(&[change]) {
            Ok(()) => self.store.submit(batch, Wait::Durable, Box::new(move |result| done(result.map(drop)))),
            Err(_) => done(Err(AppendError::TooLarge(key.len()))),
        }
    }
}

fn topic_list(topic_list: Vec<String>, broker_addr: Option<String>) -> Answer {
    Answer::json(&TopicList { broker_addr, topic_list })
}

fn forget(table: &RouteTable, connection: &Connection) {
    for broker in table.connection_closed(connection.id().0) {
        tracing::warn!(broker, ?connection, "the connection over which a broker had registered has ended: clients are no longer sent to it");
    }
}

fn register(table: &RouteTable, connection: &Connection, header: &RegisterBrokerRequest, of_group: bool, body: &[u8]) -> Outcome {
    let crc = crc32fast::hash(body).cast_signed();
    // RocketMQ clears the sign before it sends a checksum.
    if header.body_crc32 != 0 && header.body_crc32 != crc & i32::MAX && header.body_crc32 != crc {
        return Err(Failure::new(ResponseCode::SystemError, "the registration's checksum is not that of its body; send it again"));
    }
    let registered = if body.is_empty() { RegisterBrokerBody::default() } else { RegisterBrokerBody::decode(body, header.compressed)? };
    let wrapper = registered.topic_config_serialize_wrapper;
    let (topics, refused): (Vec<_>, Vec<_>) = wrapper.topic_config_table.into_iter().partition(|(name, _)| Topic::new(name).is_ok());
    if let Some((name, _)) = refused.first() {
        let shown: String = name.chars().take(64).collect();
        tracing::warn!(broker = %header.broker_name, topic = ?shown, more = refused.len() - 1, "a topic with an illegal name is not taken");
    }
    let result = table.register(Registration {
        broker: BrokerId {
            cluster: header.cluster_name.to_string(),
            name: header.broker_name.to_string(),
            id: header.broker_id,
            address: header.broker_addr.to_string(),
        },
        ha_address: header.ha_server_addr.to_string(),
        lifetime: Lifetime::Silence(header.heartbeat_timeout_millis.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)),
        connection: Some(connection.id().0),
        enable_acting_master: header.enable_acting_master.unwrap_or(false),
        of_group,
        topics: topics.into_iter().collect(),
        version: wrapper.data_version,
    })?;
    // A large registration is worked on beside the connection, whose end may have come, and been told, meanwhile.
    if connection.is_closed() {
        forget(table, connection);
    }
    let fields = RegisterBrokerResponse { ha_server_addr: result.ha_address.map(Into::into), master_addr: result.master_address.map(Into::into) };
    // The body is the order configuration, which brokers hand to clients.
    let order = KvTable { table: table.kv().list(sluice_naming::ORDER_TOPIC_NAMESPACE).unwrap_or_default() };
    Ok(Answer { body: vec![body::to_json(&order).into()], ..Answer::fields(&fields) })
}
