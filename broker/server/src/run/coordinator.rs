//! Where a group keeps its object, by configuration.

use super::RunError;
use crate::config::{CoordinatorPlace, ReplicationConfig};
use sluice_group::coordinator::{Coordinator, EtcdCoordinator};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Not to be called by a task of the runtime.
pub(super) fn open(config: &ReplicationConfig, runtime: &Handle, cluster: &str, group: &str) -> Result<Arc<dyn Coordinator>, RunError> {
    match &config.coordinator {
        Some(CoordinatorPlace::Kubernetes { namespace, name }) => in_kubernetes(runtime, namespace, name, cluster, group),
        // A group without a coordinator is refused before: that would be etcd without an endpoint.
        etcd => {
            let endpoints = if let Some(CoordinatorPlace::Etcd(endpoints)) = etcd { endpoints.as_slice() } else { &[] };
            let endpoints: Vec<_> = endpoints.iter().map(|place| format!("http://{place}")).collect();
            let opened = EtcdCoordinator::new(runtime.clone(), &endpoints, cluster, group).map_err(failed)?;
            Ok(Arc::new(opened))
        }
    }
}

#[cfg(feature = "kubernetes")]
fn in_kubernetes(runtime: &Handle, namespace: &str, name: &str, cluster: &str, group: &str) -> Result<Arc<dyn Coordinator>, RunError> {
    use sluice_group::coordinator::{Access, KubernetesCoordinator};
    let opened = KubernetesCoordinator::new(runtime.clone(), &Access::Environment, namespace, name, cluster, group).map_err(failed)?;
    Ok(Arc::new(opened))
}

#[cfg(not(feature = "kubernetes"))]
fn in_kubernetes(_: &Handle, _: &str, _: &str, _: &str, _: &str) -> Result<Arc<dyn Coordinator>, RunError> {
    #[derive(Debug, thiserror::Error)]
    #[error("this binary was built without the feature kubernetes; take another one, or keep the group's object in etcd")]
    struct NotBuilt;
    Err(failed(NotBuilt))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> RunError {
    RunError::Group { source: Box::new(error) }
}
