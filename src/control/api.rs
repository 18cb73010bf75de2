//! The control socket: what the daemon shows, as JSON over HTTP.
//!
//! `GET /v1/status`, `/v1/ports`, `/v1/fdb` and `/v1/leases`; anything else is answered with `{"error": "…"}`. Who may
//! ask is decided by the permissions of the socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use crate::control::plan::Plan;
use crate::control::show;
use crate::engine::Engine;

/// The endpoints, in the order in which an error lists them.
pub const ENDPOINTS: [&str; 4] = ["/v1/status", "/v1/ports", "/v1/fdb", "/v1/leases"];

/// What the endpoints show.
#[derive(Debug)]
pub struct Source {
    /// What the daemon was told to be.
    pub plan: Plan,
    /// What it is.
    pub engine: Engine,
    /// Since when it runs.
    pub since: Instant,
}

/// A control socket that nobody can reach until it is published; it goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    new: PathBuf,
    listener: UnixListener,
    published: bool,
}

impl Socket {
    /// Listens beside the path, for the owner and the group alone.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // A name of the same length, or shorter, fits where the path fits.
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&new)?;
        let socket = Self {
            path: path.to_owned(),
            new,
            listener,
            published: false,
        };
        std::fs::set_permissions(&socket.new, std::fs::Permissions::from_mode(0o660))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Puts the socket in its place, and in that of one that a dead daemon left there.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn publish(&mut self) -> io::Result<()> {
        std::fs::rename(&self.new, &self.path)?;
        self.published = true;
        Ok(())
    }

    /// Answers requests for as long as it is polled.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub async fn serve(&self, source: Arc<Source>) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        axum::serve(listener, router(source)).await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let path = if self.published {
            &self.path
        } else {
            &self.new
        };
        let _ = std::fs::remove_file(path);
    }
}

fn router(source: Arc<Source>) -> Router {
    let [status, ports, fdb, leases] = ENDPOINTS;
    Router::new()
        .route(
            status,
            get(|State(source): State<Arc<Source>>| async move {
                json(
                    StatusCode::OK,
                    &show::status(
                        &source.plan,
                        &source.engine.snapshot(),
                        source.since.elapsed(),
                    ),
                )
            }),
        )
        .route(
            ports,
            get(|State(source): State<Arc<Source>>| async move {
                json(
                    StatusCode::OK,
                    &show::ports(&source.plan, &source.engine.snapshot()),
                )
            }),
        )
        .route(
            fdb,
            get(|State(source): State<Arc<Source>>| async move {
                json(StatusCode::OK, &show::fdb(&source.engine.snapshot()))
            }),
        )
        .route(
            leases,
            get(|State(source): State<Arc<Source>>| async move {
                json(StatusCode::OK, &show::leases(&source.engine.snapshot()))
            }),
        )
        .fallback(|uri: Uri| async move {
            refuse(
                StatusCode::NOT_FOUND,
                &format!(
                    "there is no {}; there is {}",
                    uri.path(),
                    ENDPOINTS.join(", ")
                ),
            )
        })
        .method_not_allowed_fallback(|| async {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this can only be read: use GET",
            )
        })
        .with_state(source)
}

fn refuse(status: StatusCode, error: &str) -> Response {
    json(status, &serde_json::json!({ "error": error }))
}

/// Answers in the form that people can read too: the client prints it as it is.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
