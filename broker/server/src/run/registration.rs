//! How a broker makes itself known to name servers in other processes: all of its topics by request 103, every 30 seconds and as soon as one changes, and by
//! request 104 that it goes.

use crate::{config::BrokerIdentity, processor::topic_to_wire};
use bytes::Bytes;
use sluice_client::{ClientError, ClientOptions, Connection, Request};
use sluice_delivery::Delivery;
use sluice_protocol::{
    RequestCode, ResponseCode, TypedHeader, WireStr,
    body::{self, RegisterBrokerBody, TopicConfigSerializeWrapper},
    headers::{RegisterBrokerRequest, UnregisterBrokerRequest},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// RocketMQ's period; a name server forgets a broker after 120 s of silence.
const PERIOD: Duration = Duration::from_secs(30);
/// A burst of new topics is one registration.
const SETTLE: Duration = Duration::from_millis(20);
/// Longest wait for one name server's answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);
/// Pause after a registration that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// Registers one broker at one name server as long as it lives.
pub(super) struct Registration {
    identity: BrokerIdentity,
    advertised: SocketAddr,
    delivery: Arc<Delivery>,
    changed: Arc<Notify>,
}

impl Registration {
    pub(super) fn new(identity: BrokerIdentity, advertised: SocketAddr, delivery: Arc<Delivery>, changed: Arc<Notify>) -> Self {
        Self { identity, advertised, delivery, changed }
    }

    /// Runs until `stop` turns true, then unregisters.
    pub(super) async fn run(self, name_server: String, mut stop: watch::Receiver<bool>) {
        let options = ClientOptions { request_timeout: ANSWER_DEADLINE, ..ClientOptions::default() };
        let mut connection = None;
        let mut reachable = true;
        loop {
            let changed = self.changed.notified();
            let pause = match self.register(&name_server, &mut connection, &options).await {
                Ok(()) => {
                    if !std::mem::replace(&mut reachable, true) {
                        tracing::info!(name_server, "registered again");
                    }
                    PERIOD
                }
                Err(error) => {
                    connection = None;
                    // Once, not every few seconds: the metric and this line say the same until it works again.
                    if std::mem::replace(&mut reachable, false) {
                        tracing::warn!(name_server, %error, "registering at the name server failed; trying again every {} s", RETRY_PAUSE.as_secs());
                    }
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = changed => sleep(SETTLE).await,
                () = stopped(&mut stop) => break,
            }
        }
        if let Some(connection) = connection {
            let request = Request::new(RequestCode::UnregisterBroker, self.unregister_header().encode());
            if let Ok(Err(error)) = timeout(ANSWER_DEADLINE, connection.request(request, ANSWER_DEADLINE)).await {
                tracing::warn!(name_server, %error, "unregistering failed; the name server forgets this broker by itself");
            }
        }
    }

    async fn register(&self, name_server: &str, connection: &mut Option<Connection>, options: &ClientOptions) -> Result<(), RegisterError> {
        let open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::open(name_server, options, None).await?,
        };
        let body = Bytes::from(self.body().encode());
        let request = Request::new(RequestCode::RegisterBroker, self.register_header(&body).encode()).with_body(body);
        let answer = open.request(request, ANSWER_DEADLINE).await?;
        *connection = Some(open);
        if answer.header.code == ResponseCode::Success.to_wire() {
            return Ok(());
        }
        Err(RegisterError::Refused { code: answer.header.code, remark: answer.header.remark.map(|r| r.to_string()).unwrap_or_default() })
    }

    fn body(&self) -> RegisterBrokerBody {
        let version = self.delivery.topics().version();
        let table = self.delivery.topics().list().iter().map(|topic| (topic.name.to_string(), topic_to_wire(topic))).collect();
        let data_version = body::DataVersion { counter: version.counter, state_version: version.state_version, timestamp: version.timestamp };
        RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: TopicConfigSerializeWrapper { data_version, topic_config_table: table },
        }
    }

    fn register_header(&self, body: &Bytes) -> RegisterBrokerRequest {
        RegisterBrokerRequest {
            broker_name: WireStr::from(self.identity.name.as_str()),
            broker_addr: WireStr::from(self.advertised.to_string()),
            cluster_name: WireStr::from(self.identity.cluster.as_str()),
            // There are no replicas yet that could ask for it.
            ha_server_addr: WireStr::from(self.advertised.to_string()),
            broker_id: self.identity.id as i64,
            heartbeat_timeout_millis: None,
            enable_acting_master: None,
            compressed: false,
            // Java takes the checksum's lower 31 bits.
            body_crc32: (crc32fast::hash(body) & 0x7FFF_FFFF) as i32,
        }
    }

    fn unregister_header(&self) -> UnregisterBrokerRequest {
        UnregisterBrokerRequest {
            broker_name: WireStr::from(self.identity.name.as_str()),
            broker_addr: WireStr::from(self.advertised.to_string()),
            cluster_name: WireStr::from(self.identity.cluster.as_str()),
            broker_id: self.identity.id as i64,
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender gone is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Why a registration did not take.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the name server answered {code}: {remark}")]
    Refused { code: i32, remark: String },
}
