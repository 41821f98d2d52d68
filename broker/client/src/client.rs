//! The client: requests to brokers and name servers, and the cache of routes.

use crate::{ClientError, ClientOptions, Cluster, Connection, Request, RequestHandler, Route, error::request_name, pool::Pool};
use parking_lot::Mutex;
use sluice_protocol::{
    ExtFields, Frame, RequestCode, ResponseCode, TypedHeader,
    body::{ClusterInfo, TopicRouteData, from_json},
    headers::GetRouteInfoRequest,
    message_id::UniqueIds,
};
use sluice_types::Topic;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Most routes kept; beyond, the oldest goes.
const ROUTES_MAX: usize = 4096;

struct Inner {
    options: ClientOptions,
    namesrv: Vec<String>,
    namesrv_turn: AtomicUsize,
    pool: Pool,
    routes: Mutex<HashMap<String, (Arc<Route>, Instant)>>,
    ids: UniqueIds,
    counter: AtomicU64,
    client_id: String,
}

/// A client of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

impl Client {
    /// A client of the cluster behind these name servers (`host:port`, or several with semicolons or commas between). At least one of them must answer.
    pub async fn connect(namesrv: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let client = Self::new(namesrv, options)?;
        client.namesrv_connection().await?;
        Ok(client)
    }

    /// The same without a connection: the first request makes it.
    pub fn new(namesrv: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let namesrv: Vec<String> = namesrv.split([';', ',']).map(str::trim).filter(|a| !a.is_empty()).map(str::to_owned).collect();
        if namesrv.is_empty() {
            return Err(ClientError::NoNameServer);
        }
        let pid = std::process::id();
        // A number that another client in this process does not have: the standard library's own entropy.
        let salt = RandomState::new().hash_one(now_ms()) as u32;
        let client_id = options.client_id.clone().unwrap_or_else(|| format!("127.0.0.1@{pid}#{salt:08x}"));
        let ids = UniqueIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST), pid, salt);
        let inner = Inner {
            options,
            namesrv,
            namesrv_turn: AtomicUsize::new(0),
            pool: Pool::new(),
            routes: Mutex::default(),
            ids,
            counter: AtomicU64::new(0),
            client_id,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Has `handler` answer what brokers ask of this client. Connections that exist already keep their handler.
    pub fn set_handler(&self, handler: Arc<dyn RequestHandler>) {
        self.inner.pool.set_handler(handler);
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// The name servers.
    #[must_use]
    pub fn namesrv(&self) -> &[String] {
        &self.inner.namesrv
    }

    /// The name this client has in heartbeats.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.inner.client_id
    }

    /// A new unique id (`UNIQ_KEY`).
    #[must_use]
    pub fn unique_id(&self) -> String {
        self.inner.ids.id(now_ms(), self.inner.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// The connection to a server.
    pub async fn connection(&self, addr: &str) -> Result<Connection, ClientError> {
        self.inner.pool.get(addr, &self.inner.options, self.inner.options.request_timeout).await
    }

    async fn namesrv_connection(&self) -> Result<Connection, ClientError> {
        let first = self.inner.namesrv_turn.load(Ordering::Relaxed);
        let mut last = ClientError::NoNameServer;
        for turn in first..first + self.inner.namesrv.len() {
            match self.connection(&self.inner.namesrv[turn % self.inner.namesrv.len()]).await {
                Ok(connection) => {
                    // Stay with the one that works.
                    self.inner.namesrv_turn.store(turn % self.inner.namesrv.len(), Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends a request and returns the answer whatever its code is.
    pub async fn request(&self, addr: &str, request: Request) -> Result<Frame, ClientError> {
        self.request_within(addr, request, self.inner.options.request_timeout).await
    }

    /// The same with a wait of its own.
    pub async fn request_within(&self, addr: &str, request: Request, wait: Duration) -> Result<Frame, ClientError> {
        self.connection(addr).await?.request(request, wait).await
    }

    /// Sends a request that has no answer.
    pub async fn oneway(&self, addr: &str, request: Request) -> Result<(), ClientError> {
        self.connection(addr).await?.oneway(request, self.inner.options.request_timeout).await
    }

    /// Sends a request and takes any answer but success for an error.
    pub async fn call(&self, addr: &str, request: Request) -> Result<Frame, ClientError> {
        let code = request.code;
        let frame = self.request(addr, request).await?;
        if frame.header.code == ResponseCode::Success.to_wire() { Ok(frame) } else { Err(refused(addr, code, &frame)) }
    }

    /// Asks a name server; any answer but success is an error.
    pub async fn call_namesrv(&self, request: Request) -> Result<Frame, ClientError> {
        let connection = self.namesrv_connection().await?;
        let code = request.code;
        let frame = connection.request(request, self.inner.options.request_timeout).await?;
        if frame.header.code == ResponseCode::Success.to_wire() { Ok(frame) } else { Err(refused(connection.addr(), code, &frame)) }
    }

    /// The topic's route, from the cache while it is young enough. An older one is asked for anew; when no name server gives an answer, it does for as long
    /// again: brokers go on without name servers, and so do their clients.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let old = match self.inner.routes.lock().get_mut(topic) {
            Some((route, at)) if at.elapsed() < self.inner.options.route_age_max => return Ok(Arc::clone(route)),
            Some((route, at)) => {
                // One asks; the others have the old one meanwhile, and nobody waits for a dead name server at each message.
                *at = Instant::now();
                Some(Arc::clone(route))
            }
            None => None,
        };
        match (self.refresh_route(topic).await, old) {
            (Err(error), Some(old)) if !error.is_not_found() => {
                let again = self.inner.options.route_age_max;
                tracing::warn!(topic, %error, "no name server tells where the topic is: going on with the route as it was; asking again in {again:?}");
                Ok(old)
            }
            (result, _) => result,
        }
    }

    /// The topic's route, asked anew.
    pub async fn refresh_route(&self, topic: &str) -> Result<Arc<Route>, ClientError> {
        let route = Arc::new(self.fetch_route(topic).await?);
        let mut routes = self.inner.routes.lock();
        if routes.len() >= ROUTES_MAX && !routes.contains_key(topic) {
            let oldest = routes.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            oldest.map(|name| routes.remove(&name));
        }
        routes.insert(topic.to_owned(), (Arc::clone(&route), Instant::now()));
        Ok(route)
    }

    async fn fetch_route(&self, topic: &str) -> Result<Route, ClientError> {
        Topic::new(topic)?;
        let header = GetRouteInfoRequest { topic: topic.into(), accept_standard_json_only: true };
        match self.call_namesrv(Request::new(RequestCode::GetRouteinfoByTopic, header.encode())).await {
            Ok(frame) => {
                let data: TopicRouteData = from_json(&frame.body).map_err(|e| self.malformed_namesrv(RequestCode::GetRouteinfoByTopic, &e))?;
                Ok(Route::from_wire(&data))
            }
            Err(error) if error.is_refusal(ResponseCode::TopicNotExist) => {
                self.inner.routes.lock().remove(topic);
                Err(ClientError::TopicNotFound { topic: topic.to_owned(), namesrv: self.inner.namesrv.join(";") })
            }
            Err(error) => Err(error),
        }
    }

    /// All brokers the name server knows.
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        let frame = self.call_namesrv(Request::new(RequestCode::GetBrokerClusterInfo, ExtFields::new())).await?;
        let info: ClusterInfo = from_json(&frame.body).map_err(|e| self.malformed_namesrv(RequestCode::GetBrokerClusterInfo, &e))?;
        Ok(Cluster::from_wire(&info))
    }

    pub(crate) fn malformed_namesrv(&self, code: RequestCode, reason: &dyn std::fmt::Display) -> ClientError {
        malformed(&self.inner.namesrv.join(";"), code.to_wire(), reason)
    }
}

pub(crate) fn malformed(addr: &str, code: i32, reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::Malformed { addr: addr.to_owned(), request: request_name(code), reason: reason.to_string() }
}

pub(crate) fn refused(addr: &str, code: i32, frame: &Frame) -> ClientError {
    let remark = frame.header.remark.as_deref().unwrap_or("").to_owned();
    ClientError::Refused { addr: addr.to_owned(), request: request_name(code), code: frame.header.code, remark }
}
