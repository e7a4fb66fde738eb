//! Metadata of Dubbo applications: joins the registry's port to the protocol's client, over a connection of its own.

use std::net::SocketAddr;

use anyhow::ensure;
use bytes::BytesMut;
use finback_dubbo::{metadata_request, take_metadata};
use finback_registry::{InstanceAsked, MetadataService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks an application by one call on a connection that is made for it.
pub struct DubboMetadata;

impl MetadataService for DubboMetadata {
    fn ask<'a>(
        &'a self,
        address: SocketAddr,
        application: &'a str,
        revision: &'a str,
    ) -> InstanceAsked<'a> {
        Box::pin(async move {
            let answer = call(address, &metadata_request(application, revision)).await;
            answer.map_err(|error| format!("{error:#}"))
        })
    }
}

async fn call(address: SocketAddr, request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut received = BytesMut::new();
    loop {
        if let Some(answer) = take_metadata(&mut received)? {
            return Ok(answer);
        }
        let read = stream.read_buf(&mut received).await?;
        ensure!(read > 0, "the connection ended before the answer");
    }
}
