//! Requests to the API server, and what its refusals mean in plain words.

use http::{Request, header::CONTENT_TYPE};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, Config, Resource, core::Status};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sluice_crd::{BrokerGroup, BrokerGroupSpec};

pub(super) type LeaseObject = Lease;

/// Why there is no answer, or none that is of use.
#[derive(Debug)]
pub(super) enum Failure {
    /// None, or one that says nothing about what has become of the request.
    Away(String),
    /// What is there can't be used.
    Damaged(String),
    /// Not as long as somebody does not change something.
    Refused(String),
    /// This broker may not.
    Forbidden(String),
    /// What is there is another one than was said, or it does not take what was sent.
    Other(String),
    /// It is not there.
    Gone,
}

/// What is done to which resource, in the words of roles.
#[derive(Clone, Copy)]
struct Deed {
    verb: &'static str,
    resource: &'static str,
}

pub(super) struct Server {
    client: Client,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Server {
    /// Within a runtime.
    pub(super) fn new(config: Config, namespace: &str, name: &str) -> Result<Self, kube::Error> {
        Ok(Self { client: Client::try_from(config)?, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    pub(super) async fn get(&self) -> Result<Option<Value>, Failure> {
        there(self.ask(Deed { verb: "get", resource: "brokergroups" }, Request::get(self.group(&self.name)), "", None::<&()>).await)
    }

    pub(super) async fn create(&self, cluster: &str, group: &str) -> Result<Value, Failure> {
        let new = BrokerGroup::new(&self.name, BrokerGroupSpec { cluster: cluster.to_owned(), group: group.to_owned() });
        self.ask(Deed { verb: "create", resource: "brokergroups" }, Request::post(self.group("")), "application/json", Some(&new)).await
    }

    pub(super) async fn patch_status(&self, patch: &Value) -> Result<Value, Failure> {
        let path = format!("{}/status", self.group(&self.name));
        self.ask(Deed { verb: "patch", resource: "brokergroups/status" }, Request::patch(path), "application/json-patch+json", Some(patch)).await
    }

    pub(super) async fn get_lease(&self) -> Result<Option<LeaseObject>, Failure> {
        there(self.ask(Deed { verb: "get", resource: "leases" }, Request::get(self.lease(&self.name)), "", None::<&()>).await)
    }

    /// Makes it if it comes from nowhere; else replaces it if it is still as it was read.
    pub(super) async fn put_lease(&self, mut lease: LeaseObject) -> Result<LeaseObject, Failure> {
        let (deed, request) = if lease.metadata.resource_version.is_some() {
            (Deed { verb: "update", resource: "leases" }, Request::put(self.lease(&self.name)))
        } else {
            (Deed { verb: "create", resource: "leases" }, Request::post(self.lease("")))
        };
        lease.metadata.name = Some(self.name.clone());
        for owner in lease.metadata.owner_references.iter_mut().flatten() {
            owner.name.clone_from(&self.name);
        }
        self.ask(deed, request, "application/json", Some(&lease)).await
    }

    fn group(&self, name: &str) -> String {
        path(&BrokerGroup::url_path(&(), Some(&self.namespace)), name)
    }

    fn lease(&self, name: &str) -> String {
        path(&Lease::url_path(&(), Some(&self.namespace)), name)
    }

    async fn ask<T: DeserializeOwned>(&self, deed: Deed, request: http::request::Builder, kind: &str, body: Option<&impl Serialize>) -> Result<T, Failure> {
        let unusable = |error: &dyn std::fmt::Display| Failure::Damaged(format!("what was to be sent: {error}"));
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|error| unusable(&error))?.unwrap_or_default();
        let request = if kind.is_empty() { request } else { request.header(CONTENT_TYPE, kind) };
        let request = request.body(bytes).map_err(|error| unusable(&error))?;
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) => self.meant(deed, &status),
            error => Failure::Away(super::super::causes(&error)),
        })
    }

    fn meant(&self, Deed { verb, resource }: Deed, status: &Status) -> Failure {
        let (said, namespace) = (status.message.trim(), &self.namespace);
        let missing = status.details.as_ref().map_or(("", ""), |details| (details.kind.as_str(), details.name.as_str()));
        match status.code {
            401 => Failure::Refused(format!("the API server does not know who this broker is: look at its service account or kubeconfig; it says: {said}")),
            403 => Failure::Forbidden(format!(
                "this broker may not {verb} {resource} in the namespace {namespace}: grant its service account the Role in docs/replication.md; the API server says: {said}"
            )),
            404 if missing.0 == "namespaces" => {
                Failure::Refused(format!("there is no namespace {namespace}: make it, or name another one in replication.coordinator"))
            }
            404 if missing.1 == self.name => Failure::Gone,
            404 => Failure::Refused(format!("the API server knows no {resource}: install the resource with `kubectl apply -f crds/`; it says: {said}")),
            409 | 422 => Failure::Other(said.to_owned()),
            code => Failure::Away(format!("it answers {code}: {said}")),
        }
    }
}

fn there<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Gone) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn path(folder: &str, name: &str) -> String {
    if name.is_empty() { folder.to_owned() } else { format!("{folder}/{name}") }
}
