//! The control socket: what the daemon shows, as JSON over HTTP.
//!
//! `GET` shows what is at the [`ENDPOINTS`]; [`crate::control::adopt::endpoints`] and [`crate::control::uplinks`] add what
//! can be changed. Anything else is answered with `{"error": "…"}`. Who may ask is decided by the permissions of the socket;
//! only root and the daemon's own user may change something.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::serve::IncomingStream;
use serde::Serialize;

use crate::control::adopt::{self, endpoints};
use crate::control::identity::Macs;
use crate::control::plan::Plan;
use crate::control::prefixes::Prefixes;
use crate::control::show::{self, group, team, topology};
use crate::control::{flows, forwards, host, metrics, uplinks};
use crate::engine::{ChangeError, Engine, Snapshot};

/// The endpoints, in the order in which an error lists them.
pub const ENDPOINTS: [&str; 7] = [
    "/v1/status",
    "/v1/ports",
    "/v1/fdb",
    "/v1/leases",
    "/v1/teams",
    "/v1/groups",
    "/v1/topology",
];

/// What the endpoints show.
#[derive(Debug)]
pub struct Source {
    /// What the daemon was told to be.
    pub plan: Plan,
    /// The hardware addresses of its ports.
    pub macs: Macs,
    /// The IPv6 prefixes of its networks.
    pub prefixes: Prefixes,
    /// What it is.
    pub engine: Engine,
    /// What moves an uplink's addresses to a host adapter.
    pub adopter: adopt::Shared,
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
        // Our own user, as whom the socket was made.
        let owner = std::fs::metadata(&self.path)?.uid();
        let changes =
            middleware::from_fn(move |peer, request, next| admit(owner, peer, request, next));
        let service = router(source).layer(changes);
        let service = service.into_make_service_with_connect_info::<Peer>();
        axum::serve(listener, service).await
    }
}

/// The user at the other end of a connection, as the kernel tells.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, tokio::net::UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, tokio::net::UnixListener>) -> Self {
        let peer = stream.io().peer_cred();
        Self(peer.ok().map(|peer| peer.uid()))
    }
}

/// Lets everybody look, and root and our own user change something: the group of the socket is that of the VMMs.
async fn admit(
    owner: u32,
    ConnectInfo(Peer(user)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    if looks || user.is_some_and(|user| user == 0 || user == owner) {
        return next.run(request).await;
    }
    refuse(
        StatusCode::FORBIDDEN,
        "only root and the daemon's own user may change something; run this with sudo",
    )
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
    let [status, ports, fdb, leases, teams, groups, whole] = ENDPOINTS;
    Router::new()
        .route(
            status,
            show(|source, snapshot| {
                let now = Instant::now();
                let uptime = now.saturating_duration_since(source.since);
                let mut status = show::status(&source.plan, snapshot, uptime, now);
                complete(&mut status, source);
                status
            }),
        )
        .route(
            ports,
            show(|source, snapshot| show::ports(&source.plan, snapshot)),
        )
        .route(fdb, show(|_, snapshot| show::fdb(snapshot)))
        .route(leases, show(|_, snapshot| show::leases(snapshot)))
        .route(
            teams,
            show(|_, snapshot| team::teams(snapshot, Instant::now())),
        )
        .route(
            groups,
            show(|_, snapshot| group::groups(snapshot, Instant::now())),
        )
        .route(
            whole,
            show(|source, snapshot| {
                let teams = team::teams(snapshot, Instant::now());
                topology::topology(&source.plan, snapshot, &teams)
            }),
        )
        .merge(endpoints::router())
        .merge(uplinks::router())
        .merge(metrics::router())
        .merge(flows::router())
        .merge(forwards::router())
        .fallback(|uri: Uri| async move {
            refuse(
                StatusCode::NOT_FOUND,
                &format!(
                    "there is no {}; there is {}, {}, {}, {}, {}",
                    uri.path(),
                    ENDPOINTS.join(", "),
                    endpoints::ENDPOINTS.join(", "),
                    uplinks::ENDPOINTS.join(", "),
                    flows::ENDPOINT,
                    forwards::ENDPOINTS.join(", ")
                ),
            )
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let error = match uri.path() {
                path if ENDPOINTS.contains(&path) => "this can only be read: use GET",
                flows::ENDPOINT | "/v1/forwards" => "this can only be read: use GET",
                "/v1/adopt" => "this can be read and begun: use GET or POST",
                _ => "this can only be done: use POST",
            };
            refuse(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .with_state(source)
}

/// Adds what neither the plan nor the engine knows.
fn complete(status: &mut show::Status, source: &Source) {
    let clashes = host::clashes(&source.plan, &host::nets());
    for network in &mut status.networks {
        let prefix = source.prefixes.of(&network.name);
        network.prefix = prefix.map(|prefix| prefix.to_string());
        let own = clashes.iter().filter(|(name, _)| *name == network.name);
        network.advisories.extend(own.map(|(_, text)| text.clone()));
    }
}

/// An endpoint that shows a part of how everything is now.
fn show<T: Serialize + 'static>(part: fn(&Source, &Snapshot) -> T) -> MethodRouter<Arc<Source>> {
    get(move |State(source): State<Arc<Source>>| async move {
        // The worker answers at once, or is stuck: then signals must still be heard.
        let asked = tokio::task::spawn_blocking(move || {
            source
                .engine
                .snapshot()
                .map(|snapshot| json(StatusCode::OK, &part(&source, &snapshot)))
        });
        asked.await.ok().flatten().unwrap_or_else(|| {
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the worker does not answer; restart the daemon",
            )
        })
    })
}

/// Returns the status of an answer that a running network was not changed.
pub(in crate::control) const fn status(error: &ChangeError) -> StatusCode {
    match error {
        ChangeError::NoNetwork(_)
        | ChangeError::NoUplink { .. }
        | ChangeError::NoForward { .. } => StatusCode::NOT_FOUND,
        ChangeError::NoTeam(_)
        | ChangeError::NoNat(_)
        | ChangeError::Forward(_)
        | ChangeError::Taken { .. } => StatusCode::CONFLICT,
        ChangeError::Open(_) => StatusCode::BAD_REQUEST,
        ChangeError::Watch(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ChangeError::NoAnswer => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Answers with what is wrong.
pub(in crate::control) fn refuse(status: StatusCode, error: &str) -> Response {
    json(status, &serde_json::json!({ "error": error }))
}

/// Answers in the form that people can read too: the client prints it as it is.
pub(in crate::control) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
