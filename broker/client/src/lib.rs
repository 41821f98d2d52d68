//! The RocketMQ remoting client that the command line and the tests share. It speaks to Sluice and to Apache RocketMQ alike.
//!
//! | type | what it does |
//! | --- | --- |
//! | [`Client`] | connections, routes, requests to a broker or a name server |
//! | [`Producer`] | sends, with retries on another broker |
//! | [`Consumer`] | pulls, offsets, heartbeats, queue locks; the caller decides what to pull when |
//! | [`Admin`] | topics, groups, offsets, look-ups |
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a client runs outside of the broker's seam, on the real clock and network")]

mod admin;
mod body;
mod client;
mod connection;
mod consumer;
mod error;
mod message;
mod options;
mod pool;
mod producer;
mod reset;
mod route;

pub use admin::{Admin, ConsumerClient, GroupSummary, QueueLag, QueueRange, TopicSettings};
pub use client::Client;
pub use connection::{Connection, Request, RequestHandler};
pub use consumer::{Consumer, PullRequest, PullStatus, Pulled, Subscription};
pub use error::{ClientError, Retry};
pub use message::{Message, ReceivedMessage, SendReceipt, SendStatus};
pub use options::ClientOptions;
pub use producer::Producer;
pub use reset::QueueReset;
pub use route::{BrokerNode, Cluster, ClusterBroker, QueueAddress, Route};
