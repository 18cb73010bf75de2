//! The other end of the control socket: asks a running daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be in bytes.
const LIMIT: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "cannot reach the daemon: nobody listens on {0}; start it with `vmlan run`, or name its socket with --socket or its file with --config"
    )]
    Absent(PathBuf),
    /// This user may not ask.
    #[error(
        "cannot reach the daemon: permission to use {0} is denied; run this as the daemon's user, or as a member of its group"
    )]
    Denied(PathBuf),
    /// The daemon is there but does not answer.
    #[error("cannot ask the daemon on {path} for {endpoint}: {reason}")]
    Broken {
        /// The control socket.
        path: PathBuf,
        /// What was asked for.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The daemon refused.
    #[error("the daemon refused {endpoint}: {error}")]
    Refused {
        /// What was asked for.
        endpoint: String,
        /// The daemon's own words.
        error: String,
    },
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Asks for what is at an endpoint, and returns its JSON.
///
/// # Errors
///
/// There is no daemon, or it does not answer as it should.
pub fn get(socket: &Path, endpoint: &str) -> Result<Bytes, ClientError> {
    exchange(socket, Method::GET, endpoint, Bytes::new())
}

/// Asks for something to be done, and returns the JSON of what came of it.
///
/// # Errors
///
/// There is no daemon, it does not answer as it should, or it refuses.
pub fn post(socket: &Path, endpoint: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    let body = serde_json::to_vec(body).map_err(|error| ClientError::Broken {
        path: socket.to_owned(),
        endpoint: endpoint.to_owned(),
        reason: error.to_string(),
    })?;
    exchange(socket, Method::POST, endpoint, body.into())
}

fn exchange(
    socket: &Path,
    method: Method,
    endpoint: &str,
    body: Bytes,
) -> Result<Bytes, ClientError> {
    let broken = |reason: String| ClientError::Broken {
        path: socket.to_owned(),
        endpoint: endpoint.to_owned(),
        reason,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    let answer = runtime.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, ask(socket, method, endpoint, body)).await;
        answer.unwrap_or_else(|_| {
            Err(Failure::Exchange(format!(
                "no answer within {} seconds",
                PATIENCE.as_secs()
            )))
        })
    });
    match answer {
        Ok((StatusCode::OK, body)) => Ok(body),
        Ok((status, body)) => {
            let error = serde_json::from_slice(&body)
                .map_or_else(|_| status.to_string(), |Refusal { error }| error);
            Err(ClientError::Refused {
                endpoint: endpoint.to_owned(),
                error,
            })
        }
        Err(Failure::Connect(error)) if is_absent(&error) => {
            Err(ClientError::Absent(socket.to_owned()))
        }
        Err(Failure::Connect(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::Denied(socket.to_owned()))
        }
        Err(Failure::Connect(error)) => Err(broken(error.to_string())),
        Err(Failure::Exchange(reason)) => Err(broken(reason)),
    }
}

/// Whether nobody listens there, as against somebody who cannot be reached.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

enum Failure {
    Connect(io::Error),
    Exchange(String),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Exchange(error.to_string())
    }
}

async fn ask(
    socket: &Path,
    method: Method,
    endpoint: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Failure> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(Failure::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(endpoint)
        .header("host", "vmlan")
        .header("content-type", "application/json")
        .body(Full::new(body));
    let request = request.map_err(|error| Failure::Exchange(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LIMIT).collect().await;
        Ok((
            status,
            body.map_err(|error| Failure::Exchange(error.to_string()))?
                .to_bytes(),
        ))
    };
    tokio::pin!(connection);
    tokio::select! {
        answer = exchange => answer,
        // The connection drives the exchange; it ends first only where the answer is cut short.
        ended = &mut connection => Err(match ended {
            Ok(()) => Failure::Exchange("it closed the connection".to_owned()),
            Err(error) => error.into(),
        }),
    }
}
