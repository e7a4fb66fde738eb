//! Sessions that end here: what is asked for in their CONNECT, and their beginning.

use std::rc::Rc;
use std::sync::Arc;

use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::rejection::Rejection;

use crate::Mqtt;
use crate::channel::Channel;
use crate::policy::Duplicates;
use crate::reason::Reason;
use crate::sink::Sink;
use crate::takeover::Key;
use crate::terminal::{Beginning, Terminal};

use super::admission::{Admitted, facts};
use super::{Begun, Refused, amendment, duplicates, here, refusal, reject};

/// Begins a session whose messages go to `sink`.
pub(super) fn begin(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Option<Channel>,
    admitted: Admitted<'_>,
    sink: Arc<dyn Sink>,
) -> Result<Begun, Refused> {
    let Admitted {
        connect,
        mut stream,
        applied,
        ..
    } = admitted;
    if let Some(applied) = &applied {
        amendment::amended(applied, &connect, &facts(caller, &connect))
            .map_err(|rejection| reject(&mut stream, rejection))?;
    }
    if connect.client_id.is_empty() && !connect.clean && !connect.level.is_5() {
        stream.rejected(Rejection::Denied);
        let why = "a session that is to last needs a client identifier";
        return Err(here(Reason::BAD_CLIENT_ID, why));
    }
    let duplicates = match duplicates(applied.as_ref()) {
        // Where there is no broker, nobody else would see to it.
        Duplicates::Broker => Duplicates::TakeOver,
        own => own,
    };
    let Ok(seat) = mqtt
        .sessions
        .enter(Key::here(&connect.client_id), duplicates)
    else {
        stream.rejected(Rejection::Denied);
        let why = "a session of this client identifier is under way";
        return Err(here(Reason::BAD_CLIENT_ID, why));
    };
    let channel = client.take().ok_or(Refused::Gone)?;
    refusal::count(caller, Reason::SUCCESS);
    stream.answered(Outcome::Success, 0);
    let beginning = Beginning {
        sink,
        applied,
        seat,
        limit: mqtt.config.packet,
    };
    let terminal = Terminal::accept(caller, channel, &connect, &mqtt.kept, beginning);
    Ok(Begun::Here(Box::new(terminal)))
}
