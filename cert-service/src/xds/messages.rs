//! The few xDS messages that we speak, with Envoy's field numbers; unknown fields are skipped.

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroize as _;

/// The type of the resources that we serve.
pub const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks; on the first message.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// What kind of resources it is about.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to begin with.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to end.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the client holds from a former stream; on the first message.
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    /// The response that this acknowledges.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why that response was not accepted.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<RpcStatus>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// For people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New resources and new versions.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// What kind of resources it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be acknowledged.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that are gone, or never were.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`: the same without deltas.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// The version of the last response that was accepted.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who asks; on the first message.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// All names that are wanted.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// What kind of resources it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The response that this acknowledges.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why that response was not accepted.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<RpcStatus>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// Told again in later requests.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// New resources and new versions.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// What kind of resources it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be acknowledged.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `envoy.config.core.v3.Node`, of which we read the id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// `--service-node`.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RpcStatus {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `google.protobuf.Any`; wiped when dropped, for it holds keys.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Any {
    /// The type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Secret {
    /// The name that was asked for.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The certificate.
    #[prost(message, optional, tag = "2")]
    pub tls_certificate: Option<TlsCertificate>,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TlsCertificate {
    /// The chain as PEM.
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    /// The key as PEM.
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`, of which we write one form; wiped when dropped.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DataSource {
    /// The data itself.
    #[prost(bytes = "vec", tag = "2")]
    pub inline_bytes: Vec<u8>,
}

impl Drop for Any {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Drop for DataSource {
    fn drop(&mut self) {
        self.inline_bytes.zeroize();
    }
}

impl fmt::Debug for Any {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Any({}, {} bytes)", self.type_url, self.value.len())
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DataSource({} bytes)", self.inline_bytes.len())
    }
}
