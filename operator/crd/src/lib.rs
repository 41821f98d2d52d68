//! The custom resources of Kubernetes, API group `mq.sluice.io`: what brokers and the operator share, and nothing else. The doc comments are the manual:
//! `kubectl explain` shows them. `cargo xtask crds` writes `crds/` from here.
#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "what derives a schema makes a private copy of the type")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keeps what the brokers of one group have to agree on. The brokers write its status themselves, by compare-and-swap; people read it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "mq.sluice.io",
    version = "v1alpha1",
    kind = "BrokerGroup",
    namespaced,
    shortname = "bg",
    category = "sluice",
    status = "BrokerGroupStatus",
    derive = "PartialEq",
    doc = "What the brokers of one group have to agree on: who is master, and who must hold a message before it is acknowledged. Internal: the brokers write it themselves. \
           While it is missing they serve on as they are, but elect nobody.",
    printcolumn(name = "Master", type_ = "integer", json_path = ".status.master", description = "Number of the member that is master."),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch", description = "How many masters there have been."),
    printcolumn(name = "InSync", type_ = "string", json_path = ".status.inSyncMembers", description = "Members that hold every acknowledged message."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || has(self.status)").message("what a group has agreed on may be replaced, but never taken away")
)]
#[serde(rename_all = "camelCase")]
pub struct BrokerGroupSpec {
    /// The brokers' `broker.cluster`. Brokers of another cluster refuse to use the object. Never changes.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a group's cluster never changes: make another BrokerGroup"))]
    pub cluster: String,
    /// The brokers' `broker.name`, which all members of a group share. Brokers of another group refuse to use the object. Never changes.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a group's name never changes: make another BrokerGroup"))]
    pub group: String,
}

/// What a group has agreed on. Missing: the group is not founded yet.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.epoch >= oldSelf.epoch").message("an epoch that has begun is never taken back"))]
#[x_kube(validation = Rule::new("self.revision > oldSelf.revision || self == oldSelf").message("each change has a revision of its own, above all before"))]
#[x_kube(validation = Rule::new("self.epoch != oldSelf.epoch || (self.master == oldSelf.master && self.since == oldSelf.since)")
    .message("an epoch has one master: another one begins another epoch"))]
#[x_kube(validation = Rule::new("self.inSync.exists(member, member.id == self.master)").message("the master is one of the in-sync set"))]
#[x_kube(validation = Rule::new("self.since <= self.revision").message("an epoch begins at a revision that there has been"))]
pub struct BrokerGroupStatus {
    /// How many masters the group has had, this one included; each begins an epoch.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// Number of the member that is the epoch's master, as in `replication.members`.
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub master: i64,
    /// The in-sync set: a message is acknowledged when each of these holds it, and only one of these may become master. The master is one of them.
    #[schemars(length(min = 1, max = 1000))]
    pub in_sync: Vec<InSyncMember>,
    /// The numbers of the in-sync set as one text, for the table that `kubectl get` shows. Brokers do not read it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 12_000))]
    pub in_sync_members: String,
    /// How many changes of this object there have been. Brokers remember it, and refuse an object that was restored from an older copy.
    #[schemars(range(min = 1))]
    pub revision: i64,
    /// The revision at which the epoch began.
    #[schemars(range(min = 1))]
    pub since: i64,
    /// How many epochs have begun without any member of the set before, so that acknowledged messages may be missing since. 0 unless a person has ordered it, or all members had
    /// lost power at once under asynchronous flush.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub unclean: i64,
}

/// A member of the in-sync set, with the store that it has.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InSyncMember {
    /// Number of the member, as in `replication.members`.
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub id: i64,
    /// Which life of its store, in 32 hexadecimal digits. A store that is new, or that may have lost something that it said it held, begins another life, and counts when it has
    /// caught up.
    #[schemars(length(equal = 32), regex(pattern = "^[0-9a-f]{32}$"))]
    pub store: String,
}

/// All custom resources.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![BrokerGroup::crd()]
}

/// The files of `crds/`: each one's name and YAML.
pub fn files() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    let file = |crd: CustomResourceDefinition| {
        let yaml = serde_yaml::to_string(&crd)?;
        Ok((format!("{}.yaml", crd.metadata.name.unwrap_or_default()), format!("# Made by `cargo xtask crds`; do not edit.\n{yaml}")))
    };
    all().into_iter().map(file).collect()
}
