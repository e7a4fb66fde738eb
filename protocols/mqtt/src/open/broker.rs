//! The choice of a broker: one that accepts the connection and answers CONNECT in its time; else the
//! next. Nothing is granted before CONNACK (MQTT 5, section 3.2), so asking another one costs nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::net::{Expired, Socket};
use finback_core::rejection::Rejection;
use tokio::time::Instant;

use crate::Mqtt;
use crate::channel::Channel;
use crate::gate::PropertyPlace;
use crate::reason::Reason;

use super::admission::{Admitted, attribute};
use super::introduction::{Answer, Failed, Introduction, gone};
use super::refusal::{answer_of, outcome};
use super::{Refused, connack, here, reject};

/// While there is another broker to try, one gets no longer to accept a connection.
const IMPATIENT: Duration = Duration::from_millis(300);

/// A session that a broker has granted.
pub(super) struct Granted {
    pub(super) lease: Lease,
    pub(super) endpoint: Channel,
    pub(super) answer: Answer,
}

/// What came of asking one broker.
enum Asked {
    Granted(Box<Granted>),
    /// Another is to be asked.
    Again,
    /// The same; this one took the connection and said nothing.
    Silent,
    Refused(Refused),
}

/// Finds a broker that accepts the session.
pub(super) async fn reach(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Channel,
    admitted: &mut Admitted<'_>,
    said: &[u8],
) -> Result<Granted, Refused> {
    // One that was silent is not asked again, be it the only one.
    let mut silent: Option<SocketAddr> = None;
    loop {
        let level = admitted.connect.level;
        let mut attributes = |name: &str| attribute(&admitted.connect, &admitted.key, name);
        let attempt = tokio::select! {
            biased;
            attempt = admitted.exchange.attempt(&mut attributes) => attempt,
            () = gone(client, level) => return Err(Refused::Gone),
        };
        let mut lease = match attempt {
            Ok(lease) => lease,
            Err(rejection) => return Err(reject(&mut admitted.exchange, rejection)),
        };
        if silent == Some(lease.address()) {
            let exchange = &mut admitted.exchange;
            exchange.conclude(&mut lease, AttemptEnd::Unsent, Resend::Impossible);
            return Err(reject(exchange, Rejection::DeadlineExceeded));
        }
        if connack::is_second(mqtt, admitted, lease.cluster().name()) {
            let exchange = &mut admitted.exchange;
            exchange.conclude(&mut lease, AttemptEnd::Unsent, Resend::Impossible);
            return Err(connack::refuse_second(admitted));
        }
        // A hung broker fills its own places, and nobody else's.
        let broker = lease.address();
        let most = mqtt.config.connecting;
        let Some(_place) = PropertyPlace::at(caller.worker(), broker, most) else {
            let exchange = &mut admitted.exchange;
            exchange.conclude(&mut lease, AttemptEnd::Unsent, Resend::Impossible);
            exchange.rejected(Rejection::Overloaded);
            let why = "too many sessions wait for their broker";
            return Err(here(Reason::SERVER_BUSY, why));
        };
        admitted.place = None;
        match ask(mqtt, caller, client, admitted, said, lease).await {
            Asked::Granted(granted) => return Ok(*granted),
            Asked::Again => {}
            Asked::Silent => silent = Some(broker),
            Asked::Refused(refused) => return Err(refused),
        }
    }
}

/// Asks one broker.
async fn ask(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Channel,
    admitted: &mut Admitted<'_>,
    said: &[u8],
    mut lease: Lease,
) -> Asked {
    let dialled = tokio::select! {
        biased;
        dialled = dial(caller, admitted, &lease) => dialled,
        () = gone(client, admitted.connect.level) => return Asked::Refused(Refused::Gone),
    };
    let socket = match dialled {
        Ok(socket) => socket,
        Err(end) => return next(admitted, &mut lease, end, Rejection::ConnectFailed),
    };
    let mut endpoint = Channel::new(socket);
    let introduction = Introduction {
        caller,
        config: &mqtt.config,
        level: admitted.connect.level,
        method: admitted.connect.method(),
        due: admitted.exchange.attempt_deadline(),
        lease: &lease,
    };
    match introduction.carry(client, &mut endpoint, said).await {
        Ok(answer) => answered(admitted, lease, endpoint, answer),
        Err(why) => failed(admitted, lease, why),
    }
}

/// What follows from an introduction that came to nothing.
fn failed(admitted: &mut Admitted<'_>, mut lease: Lease, failed: Failed) -> Asked {
    let exchange = &mut admitted.exchange;
    match failed {
        Failed::ClientGone => {
            exchange.given_up(&mut lease);
            Asked::Refused(Refused::Gone)
        }
        Failed::ClientSilent => {
            exchange.rejected(Rejection::Denied);
            let why = "the client did not authenticate itself in time";
            Asked::Refused(here(Reason::NOT_AUTHORIZED, why))
        }
        Failed::Client(fault) => {
            exchange.rejected(Rejection::BadRequest);
            Asked::Refused(fault.into())
        }
        Failed::Silent(Expired { stalled }) => {
            let end = exchange.unopened(&lease, stalled);
            match next(admitted, &mut lease, end, Rejection::DeadlineExceeded) {
                Asked::Again if !stalled => Asked::Silent,
                asked => asked,
            }
        }
        // A broker that hangs up on CONNECT has opened no session.
        Failed::Endpoint => {
            let end = AttemptEnd::Lost { reused: false };
            next(admitted, &mut lease, end, Rejection::ConnectionLost)
        }
        Failed::Halfway(silent) => {
            let (end, rejection) = match silent {
                Some(Expired { stalled }) => (
                    exchange.unopened(&lease, stalled),
                    Rejection::DeadlineExceeded,
                ),
                // It has asked, and did not like the answer.
                None => (
                    AttemptEnd::Answered(Outcome::Invalid),
                    Rejection::ConnectionLost,
                ),
            };
            exchange.conclude(&mut lease, end, Resend::Impossible);
            Asked::Refused(reject(exchange, rejection))
        }
    }
}

/// Goes on to the next broker, where the route allows another attempt.
fn next(
    admitted: &mut Admitted<'_>,
    lease: &mut Lease,
    end: AttemptEnd,
    otherwise: Rejection,
) -> Asked {
    let exchange = &mut admitted.exchange;
    // CONNECT grants nothing until it is answered: it may be said again.
    if exchange.conclude(lease, end, Resend::Safe) {
        return Asked::Again;
    }
    Asked::Refused(reject(exchange, otherwise))
}

/// What a broker's answer to CONNECT means.
fn answered(
    admitted: &mut Admitted<'_>,
    mut lease: Lease,
    endpoint: Channel,
    answer: Answer,
) -> Asked {
    let outcome = outcome(answer.reason);
    let end = AttemptEnd::Answered(outcome);
    let exchange = &mut admitted.exchange;
    if exchange.conclude(&mut lease, end, Resend::Safe) {
        return Asked::Again;
    }
    if answer.reason == Reason::SUCCESS {
        return Asked::Granted(Box::new(Granted {
            lease,
            endpoint,
            answer,
        }));
    }
    exchange.answered(answer_of(answer.reason), answer.packet.len() as u64);
    Asked::Refused(Refused::There {
        reason: answer.reason,
        connack: answer.packet,
    })
}

async fn dial(
    caller: &Rc<Caller>,
    admitted: &Admitted<'_>,
    lease: &Lease,
) -> Result<Socket, AttemptEnd> {
    let worker = caller.worker();
    let ends = caller.ends(caller.peer().ip());
    let dialling = Box::pin(worker.connect_for(lease, Some(b"mqtt"), ends, caller.known()));
    let due = match admitted.exchange.is_last_attempt() {
        true => admitted.exchange.deadline(),
        false => Instant::now() + IMPATIENT,
    };
    match worker.timers().within(due, dialling).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            tracing::debug!(endpoint = %lease.address(), %error, "cannot connect");
            Err(AttemptEnd::from(&error))
        }
        // It is not waited for; that says nothing of it.
        Err(Expired { .. }) => Err(AttemptEnd::Unsent),
    }
}
