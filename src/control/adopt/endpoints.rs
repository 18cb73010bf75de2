//! `/v1/adopt` on the control socket: GET shows what is adopted; POST adopts, confirms and undoes.
//!
//! A request that was begun is finished, and its time to confirm runs, whether or not the client waits for the answer: it
//! may well be the adoption that cuts him off.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{Adoption, Stage};
use super::request::Request;
use super::{AdoptError, Adopter};
use crate::control::api::{Source, json, refuse};
use crate::control::timestamp;
use crate::net::Now;

/// Where adoptions are shown and begun, where they are confirmed, and where they are undone.
pub const ENDPOINTS: [&str; 3] = ["/v1/adopt", "/v1/adopt/confirm", "/v1/adopt/undo"];

/// An adoption, as it is shown.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Adopted {
    /// The adapter.
    pub interface: String,
    /// Its network.
    pub network: String,
    /// The port group, if it is in one.
    pub port_group: Option<String>,
    /// The host adapter.
    pub host_adapter: String,
    /// `pending`, `confirmed`, `resting` (the adapter has its addresses until the daemon can take them again) or `returning`.
    pub state: String,
    /// Until when it can be confirmed, as RFC 3339 writes it, in UTC.
    pub until: Option<String>,
    /// The addresses that moved.
    pub addresses: Vec<String>,
    /// The routes that moved.
    pub routes: Vec<String>,
}

/// Which adoption is to be undone.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The adapter; absent for the pending one, or the only one.
    #[serde(default)]
    pub interface: Option<String>,
}

impl From<&Adoption> for Adopted {
    fn from(adoption: &Adoption) -> Self {
        let moment = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let state = match adoption.stage {
            Stage::Pending => "pending",
            Stage::Confirmed => "confirmed",
            Stage::Resting => "resting",
            Stage::Returning => "returning",
        };
        let Adoption { baggage, .. } = adoption;
        Self {
            interface: adoption.interface.clone(),
            network: adoption.network.clone(),
            port_group: adoption.port_group.clone(),
            host_adapter: adoption.host_adapter.clone(),
            state: state.to_owned(),
            until: adoption.until.and_then(moment).map(timestamp::render),
            addresses: baggage
                .addresses
                .iter()
                .map(|one| one.net.to_string())
                .collect(),
            routes: baggage.routes.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Returns the endpoints.
pub fn router() -> Router<Arc<Source>> {
    let [adopt, confirm, undo] = ENDPOINTS;
    Router::new()
        .route(
            adopt,
            get(|State(source): State<Arc<Source>>| async move {
                let shown = blocking(&source, |source| Ok(shown(&source.adopter.lock())));
                respond(shown.await)
            })
            .post(|State(source): State<Arc<Source>>, body: Bytes| async {
                answer(source, move |source| {
                    let request: Request = parsed("adopt", &body)?;
                    let mut adopter = source.adopter.lock();
                    // Asked while nobody else can change it with regard to what is adopted.
                    let snapshot = source.engine.snapshot();
                    let snapshot = snapshot.ok_or_else(|| AdoptError::State {
                        attempt: format!("adopt {}", request.interface),
                        reason: "the worker does not answer; restart the daemon".to_owned(),
                    })?;
                    let networks = snapshot.networks.iter();
                    let uplinks: Vec<&str> = networks
                        .filter(|network| network.name == request.network)
                        .filter_map(|network| network.team.as_ref())
                        .flat_map(|team| &team.uplinks)
                        .map(|uplink| &*uplink.name)
                        .collect();
                    let adopted = adopter.adopt(&source.plan, &uplinks, &request, now())?;
                    Ok(Adopted::from(&adopted))
                })
                .await
            }),
        )
        .route(
            confirm,
            post(|State(source): State<Arc<Source>>| async {
                answer(source, |source| {
                    Ok(Adopted::from(&source.adopter.lock().confirm(now())?))
                })
                .await
            }),
        )
        .route(
            undo,
            post(|State(source): State<Arc<Source>>, body: Bytes| async {
                answer(source, move |source| {
                    let Undo { interface } = match &body[..] {
                        [] => Undo::default(),
                        body => parsed("undo", body)?,
                    };
                    let undone = source.adopter.lock().undo(interface.as_deref(), now())?;
                    Ok(Adopted::from(&undone))
                })
                .await
            }),
        )
}

/// Undoes in time what nobody confirms, for as long as it is polled.
pub async fn keep_time(source: Arc<Source>) {
    loop {
        // Takes a lock that a change may hold for a while.
        let handled = blocking(&source, |source| {
            let mut adopter = source.adopter.lock();
            adopter.handle_timeout(now());
            adopter.poll_timeout()
        });
        match handled.await.flatten() {
            None => source.adopter.told().await,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = source.adopter.told() => {}
            },
        }
    }
}

async fn blocking<T: Send + 'static>(
    source: &Arc<Source>,
    work: impl FnOnce(&Source) -> T + Send + 'static,
) -> Option<T> {
    let source = Arc::clone(source);
    tokio::task::spawn_blocking(move || work(&source))
        .await
        .ok()
}

/// Makes a change beside the control thread, and answers with what came of it.
async fn answer<T: Serialize + Send + 'static>(
    source: Arc<Source>,
    work: impl FnOnce(&Source) -> Result<T, AdoptError> + Send + 'static,
) -> Response {
    // A task of its own, since this one ends when the client hangs up.
    let task = tokio::spawn(async move {
        let done = blocking(&source, work).await;
        source.adopter.tell();
        done
    });
    respond(task.await.ok().flatten())
}

fn respond<T: Serialize>(done: Option<Result<T, AdoptError>>) -> Response {
    match done {
        Some(Ok(value)) => json(StatusCode::OK, &value),
        Some(Err(error)) => refuse(status(&error), &error.to_string()),
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}

const fn status(error: &AdoptError) -> StatusCode {
    match error {
        AdoptError::Request { .. } => StatusCode::BAD_REQUEST,
        AdoptError::State { .. } => StatusCode::CONFLICT,
        AdoptError::Host { .. } | AdoptError::Record(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn parsed<T: DeserializeOwned>(attempt: &str, body: &[u8]) -> Result<T, AdoptError> {
    serde_json::from_slice(body).map_err(|error| AdoptError::Request {
        attempt: attempt.to_owned(),
        reason: format!("the request is not understood: {error}"),
    })
}

fn shown(adopter: &Adopter) -> Vec<Adopted> {
    adopter.adoptions().iter().map(Adopted::from).collect()
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}
