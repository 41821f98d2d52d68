//! How a broker makes itself known to name servers in other processes: all of its topics by request 103, every 30 seconds, as soon as one changes, and as soon
//! as a lost connection can be made again; and by request 104 that it goes.

use crate::{
    config::BrokerIdentity,
    processor::{OF_GROUP, Told, topic_to_wire},
};
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
    sync::watch,
    time::{sleep, timeout},
};

/// RocketMQ's period; a name server forgets a broker after 120 s of silence.
const PERIOD: Duration = Duration::from_secs(30);
/// A burst of new topics is one registration: those that come within this, and those that come while another registration is on its way. Whoever makes one
/// topic waits for as long.
const SETTLE: Duration = Duration::from_millis(2);
/// Longest wait for one name server's answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);
/// First pause after a registration that failed, or a connection that was lost; it doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// Registers one broker at one name server as long as it lives.
pub(super) struct Registration {
    pub(super) identity: BrokerIdentity,
    pub(super) advertised: SocketAddr,
    /// Whose topics they are; `None`: a replica's, which registers none.
    pub(super) delivery: Option<Arc<Delivery>>,
    /// Whether it is a member of a group.
    pub(super) of_group: bool,
    pub(super) told: Arc<Told>,
    pub(super) name_server: String,
    /// Which of the name servers this is for `told`.
    pub(super) number: usize,
}

impl Registration {
    /// Runs until `stop` turns true, then unregisters.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.told.changes();
        let mut connection = None;
        let mut failures = 0;
        loop {
            let upto = *changes.borrow_and_update();
            match self.register(&mut connection).await {
                Ok(open) => {
                    self.told.acknowledged(self.number, upto);
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(name_server = self.name_server, "registered again");
                    }
                    tokio::select! {
                        () = sleep(PERIOD) => {}
                        _ = changes.changed() => sleep(SETTLE).await,
                        () = open.closed() => {
                            failures = 1;
                            tracing::warn!(name_server = self.name_server, "the connection to the name server was lost; registering again");
                        }
                        () = stopped(&mut stop) => break,
                    }
                }
                Err(error) => {
                    failures += 1;
                    // Once, not every few seconds: this line holds until it works again.
                    if failures == 1 {
                        let most = BACKOFF_MAX.as_secs();
                        tracing::warn!(name_server = self.name_server, %error, "registering at the name server failed; trying again, at least every {most} s");
                    }
                }
            }
            if failures > 0 {
                self.told.away(self.number);
                tokio::select! {
                    () = sleep(backoff(failures)) => {}
                    () = stopped(&mut stop) => break,
                }
            }
        }
        self.told.away(self.number);
        self.unregister(connection).await;
    }

    /// Registers over the connection there is, or a new one, and returns it.
    async fn register(&self, connection: &mut Option<Connection>) -> Result<Connection, RegisterError> {
        let open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::open(&self.name_server, &ClientOptions { request_timeout: ANSWER_DEADLINE, ..ClientOptions::default() }, None).await?,
        };
        let body = Bytes::from(self.body().encode());
        let mut header = self.register_header(&body).encode();
        if self.of_group {
            header.insert(OF_GROUP, "1");
        }
        let request = Request::new(RequestCode::RegisterBroker, header).with_body(body);
        let answer = open.request(request, ANSWER_DEADLINE).await?;
        // Kept also when it refuses: a name server forgets a broker whose connection ends, with all that it took before.
        *connection = Some(open.clone());
        if answer.header.code != ResponseCode::Success.to_wire() {
            return Err(RegisterError::Refused { code: answer.header.code, remark: answer.header.remark.map(|r| r.to_string()).unwrap_or_default() });
        }
        Ok(open)
    }

    async fn unregister(&self, connection: Option<Connection>) {
        let Some(connection) = connection.filter(Connection::is_open) else { return };
        let request = Request::new(RequestCode::UnregisterBroker, self.unregister_header().encode());
        if let Ok(Err(error)) = timeout(ANSWER_DEADLINE, connection.request(request, ANSWER_DEADLINE)).await {
            tracing::warn!(name_server = self.name_server, %error, "unregistering failed; the name server forgets this broker by itself");
        }
    }

    fn body(&self) -> RegisterBrokerBody {
        let Some(delivery) = &self.delivery else { return RegisterBrokerBody::default() };
        let version = delivery.topics().version();
        let table = delivery.topics().list().iter().map(|topic| (topic.name.to_string(), topic_to_wire(topic))).collect();
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

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX)
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
