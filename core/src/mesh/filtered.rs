//! Filters at work: what they make of exchanges and of the messages of sessions.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::filter::{Asked, Decided, Edits, Flow, Message, MessageFlow, Placed, Refusal, Wait};
use crate::identity::Identity;
use crate::record::{Record, TraceId};
use crate::rejection::Rejection;
use crate::route::{Mark, Route, Shadow};
use crate::subset::InLane;
use crate::trace::Field;

use super::exchange::{Attributes, Exchange, Routed};
use super::local::LocalMesh;
use super::resolved::ResolvedCall;
use super::traced::Propagated;

/// What filters made of an exchange.
#[derive(Default)]
pub(super) struct Filtered {
    /// The filter that refused it, or that it waits for.
    pub(super) by: Option<Arc<str>>,
    refusal: Option<Refusal>,
    edits: Edits,
    /// The first filter that changed something that its endpoint is to get.
    edited_by: Option<Arc<str>>,
    /// What it had become behind each filter that changed something, by the filter's name; of calls that linger alone,
    /// whose messages are judged by it.
    behind: Vec<(Arc<str>, Edits)>,
    /// No filter was asked: it was refused before that, or is not over yet.
    is_unasked: bool,
    waiting: Option<Waiting>,
}

/// What an exchange waits for, and how it goes on.
struct Waiting {
    wait: Option<Wait>,
    /// The number of the check after the one that it waits for.
    next: usize,
    /// Where it goes then.
    routed: Routed,
}

impl Filtered {
    /// Of an exchange that all filters let pass, and that became this.
    pub(super) fn after(edits: Edits) -> Box<Self> {
        Box::new(Self {
            edits,
            ..Self::default()
        })
    }

    /// What the exchange became.
    pub(super) fn edits(self) -> Edits {
        self.edits
    }

    /// Remembers who changed something, once something is changed, and of calls that linger what that was.
    fn note_edits(&mut self, filter: &Arc<str>, lingers: bool) {
        if self.edits.attributes().is_empty() {
            return;
        }
        if self.edited_by.is_none() {
            self.edited_by = Some(filter.clone());
        }
        let before = self.behind.last().map(|(_, edits)| edits);
        if lingers && before != Some(&self.edits) {
            self.behind.push((filter.clone(), self.edits.clone()));
        }
    }
}

impl Exchange {
    pub(super) fn checks(&self) -> Option<&Rc<[Placed]>> {
        self.resolved.checks_of(self.route)
    }

    /// Asks the filters of its route, now that it is opened.
    pub(super) fn pass_filters(
        &mut self,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
    ) {
        if let Ok(routed) = self.routed {
            self.pass_from((0, routed), Filtered::default(), local, client, attributes);
        }
    }

    fn pass_from(
        &mut self,
        (first, routed): (usize, Routed),
        mut own: Filtered,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
    ) {
        let checks = self.checks().cloned();
        let checks = checks.as_deref().unwrap_or_default();
        self.routed = Ok(routed);
        for (number, placed) in checks.iter().enumerate().skip(first) {
            let mut asked = Asked {
                now: local.now(),
                source: self.source,
                client,
                edits: &mut own.edits,
                clock: local.mesh().clock,
                trace: self.trace(),
                attributes: &mut *attributes,
                random: &mut || local.random(),
            };
            let flow = placed.check.open(&mut asked);
            own.note_edits(&placed.name, self.lingers);
            match flow {
                Flow::Continue => continue,
                Flow::Refuse(refusal) => {
                    self.routed = Err(refusal.why);
                    own.refusal = Some(refusal);
                }
                Flow::Wait(wait) => {
                    self.routed = Ok(Routed::Waits);
                    own.waiting = Some(Waiting {
                        wait: Some(wait),
                        next: number + 1,
                        routed,
                    });
                }
            }
            own.by = Some(placed.name.clone());
            break;
        }
        let is_something = own.by.is_some() || !own.edits.is_empty();
        self.filtered = is_something.then(|| Box::new(own));
    }

    /// Leaves filters until it is [known](Self::judge) who calls.
    #[cold]
    pub(super) fn postpone_filters(&mut self) {
        self.filtered.get_or_insert_default().is_unasked = true;
    }

    /// Asks the filters that were left until now, if they were.
    pub(crate) fn judge(
        &mut self,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
    ) {
        if self.filtered.take_if(|own| own.is_unasked).is_some() {
            self.pass_filters(local, client, attributes);
        }
    }

    /// It goes no further, whatever filters would say.
    #[cold]
    pub(super) fn pass_by_filters(&mut self, why: Rejection) {
        self.routed = Err(why);
        self.filtered.get_or_insert_default().is_unasked = true;
    }

    /// What it waits for, if a filter has not decided yet; whoever takes it tells what came of
    /// it by [`decided`](Self::decided).
    pub(crate) fn take_wait(&mut self) -> Option<Wait> {
        self.filtered.as_mut()?.waiting.as_mut()?.wait.take()
    }

    /// The filter that it waits for has decided: asks those that follow.
    pub(crate) fn decided(
        &mut self,
        decided: Decided,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
    ) {
        let Some(mut own) = self.filtered.take() else {
            return;
        };
        let Some(Waiting { next, routed, .. }) = own.waiting.take() else {
            self.filtered = Some(own);
            return;
        };
        own.edits.extend(decided.edits);
        if let Some(name) = own.by.clone() {
            own.note_edits(&name, self.lingers);
        }
        if let Some(refusal) = decided.refusal {
            self.routed = Err(refusal.why);
            own.refusal = Some(refusal);
            self.filtered = Some(own);
            return;
        }
        own.by = None;
        self.pass_from((next, routed), *own, local, client, attributes);
    }

    /// Why a filter refused it, if one did.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.filtered.as_ref()?.refusal.as_ref()
    }

    /// Whether its caller never hears of it.
    pub(crate) fn drops_answer(&self) -> bool {
        self.filtered
            .as_ref()
            .is_some_and(|own| own.edits.drops_answer())
    }

    /// Whether filters change something that its endpoint is to get.
    pub(crate) fn has_edits(&self) -> bool {
        !self.edited().is_empty()
    }

    /// What filters change about it.
    pub(crate) fn edited(&self) -> &[Field] {
        let own = self.filtered.as_ref().map(|own| own.edits.attributes());
        own.unwrap_or_default()
    }

    /// The lane that filters put it into.
    pub(crate) fn placed(&self) -> Option<&InLane> {
        self.filtered.as_ref()?.edits.placed()
    }

    /// What filters made of an attribute: `None` where they left it, else its value, empty if it was taken away.
    pub(super) fn edit_of(&self, attribute: &str) -> Option<&str> {
        self.filtered.as_ref()?.edits.get(attribute)
    }

    /// Its protocol has no room for that in it: it goes no further.
    pub(crate) fn cannot_be_changed(&mut self) -> Rejection {
        let mut refusal = Refusal::new(Rejection::Denied, &Arc::from(""));
        refusal.text = "what a filter changes about it has no room in it".into();
        let why = refusal.why;
        let own = self.filtered.get_or_insert_default();
        own.by = own.edited_by.take();
        own.refusal = Some(refusal);
        why
    }

    /// What an attempt carries: the context of its trace, and what filters changed.
    pub(super) fn with_edits(&self, propagated: Option<Propagated>) -> Option<Propagated> {
        let edits = self.filtered.as_ref().map(|own| own.edits.attributes());
        let Some(edits) = edits.filter(|own| !own.is_empty()) else {
            return propagated;
        };
        let context = propagated.into_iter().flatten();
        Some(edits.iter().cloned().chain(context).collect())
    }

    /// Whether it is copied to a shadow.
    pub(crate) fn shadow(&self, local: &LocalMesh) -> Option<Arc<Shadow>> {
        let shadow = self.selected_route()?.shadow.as_ref()?;
        shadow.share.holds(local.random()).then(|| shadow.clone())
    }

    /// Marks it as a copy of `original`, which filters may have changed.
    pub(crate) fn mark(
        &mut self,
        original: &Self,
        marks: &[Mark],
        protocol: &str,
        attributes: Attributes<'_, '_>,
    ) {
        let mut own = self.filtered.take().unwrap_or_default();
        if let Some(changed) = &original.filtered {
            own.edits = changed.edits.clone();
        }
        for mark in marks {
            if mark.protocol.as_deref().is_some_and(|own| own != protocol) {
                continue;
            }
            let before = attributes(&mark.name).filter(|_| mark.appends);
            match before.filter(|before| !before.is_empty()) {
                None => own.edits.set(&mark.name, &mark.value),
                Some(before) => own
                    .edits
                    .set(&mark.name, &format!("{before}{}", mark.value)),
            }
        }
        self.filtered = Some(own);
    }

    /// Tells the filters that let it pass how it ended.
    pub(super) fn tell_filters(&self, record: &Record<'_>) {
        let is_unasked = self.filtered.as_ref().is_some_and(|own| own.is_unasked);
        if !is_unasked
            && self.refusal().is_none()
            && let Some(checks) = self.checks()
        {
            checks.iter().for_each(|own| own.check.end(record));
        }
    }

    /// What filters do with the messages of the session that it began.
    pub(crate) fn session_filters(&self) -> Option<SessionFilters> {
        let route = self.selected_route()?.clone();
        Some(SessionFilters {
            epoch: self.resolved.epoch,
            checks: self.checks().cloned().unwrap_or_else(|| Rc::new([])),
            resolved: self.resolved.clone(),
            route,
            source: self.source,
            behind: self
                .filtered
                .as_ref()
                .map(|own| own.behind.clone())
                .unwrap_or_default(),
        })
    }
}

/// The filters of one session: those of its route, as configured now.
pub(crate) struct SessionFilters {
    resolved: Rc<ResolvedCall>,
    route: Arc<Route>,
    source: IpAddr,
    epoch: u64,
    checks: Rc<[Placed]>,
    /// What the session had become behind each filter that changed it, when it began.
    behind: Vec<(Arc<str>, Edits)>,
}

impl SessionFilters {
    /// Those of a session that goes on in this worker, where calls like it have this resolved call: what is configured now is
    /// taken up before anything is asked. None of them decided about it where it was.
    pub(crate) fn resume(resolved: Rc<ResolvedCall>, route: Arc<Route>, source: IpAddr) -> Self {
        Self {
            resolved,
            route,
            source,
            // No routing has that number.
            epoch: u64::MAX,
            checks: Rc::new([]),
            behind: Vec::new(),
        }
    }

    /// The route that it takes.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Takes up what was configured anew; whether something was.
    pub(crate) fn renew(&mut self, local: &LocalMesh) -> bool {
        let is_new = local.epoch() != self.epoch;
        if is_new {
            self.epoch = local.epoch();
            self.checks = self.resolved.checks_now(local, &self.route, &self.checks);
        }
        is_new
    }

    /// Why the session may not go on, and by which filter.
    pub(crate) fn refusal(
        &self,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
    ) -> Option<(Arc<str>, Refusal)> {
        let mut edits = self.first();
        self.checks.iter().find_map(|placed| {
            let mut random = || local.random();
            let mut asked = self.asked(local, client, &mut edits, attributes, &mut random);
            let refusal = placed.check.renew(&mut asked);
            self.pass(placed, &mut edits);
            refusal.map(|own| (placed.name.clone(), own))
        })
    }

    /// What the first filter sees: all that was changed by filters that are gone. What one of them took away must not be
    /// there again.
    fn first(&self) -> Edits {
        let is_gone = |name: &Arc<str>| self.checks.iter().all(|own| own.name != *name);
        let mut gone = self.behind.iter().rev();
        let gone = gone.find(|(name, _)| is_gone(name));
        gone.map(|(_, edits)| edits.clone()).unwrap_or_default()
    }

    /// What those see that follow a filter.
    fn pass(&self, placed: &Placed, edits: &mut Edits) {
        if let Some((_, own)) = self.behind.iter().rev().find(|own| own.0 == placed.name) {
            edits.clone_from(own);
        }
    }

    /// Whether it lets everything pass.
    pub(crate) fn is_idle(&self) -> bool {
        self.checks.is_empty()
    }

    fn asked<'a, 'b>(
        &self,
        local: &'a LocalMesh,
        client: Option<&'a Identity>,
        edits: &'a mut Edits,
        attributes: &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>,
        random: &'a mut dyn FnMut() -> u64,
    ) -> Asked<'a, 'b> {
        Asked {
            now: local.now(),
            source: self.source,
            client,
            edits,
            clock: local.mesh().clock,
            trace: TraceId::default(),
            attributes,
            random,
        }
    }

    /// What becomes of a message.
    pub(crate) fn message(
        &self,
        local: &LocalMesh,
        client: Option<&Identity>,
        attributes: Attributes<'_, '_>,
        message: &Message<'_>,
    ) -> MessageFlow {
        let mut edits = self.first();
        let mut pause = None;
        for placed in &*self.checks {
            let mut random = || local.random();
            let mut asked = self.asked(local, client, &mut edits, &mut *attributes, &mut random);
            let flow = placed.check.message(&mut asked, message);
            self.pass(placed, &mut edits);
            match flow {
                MessageFlow::Continue => {}
                MessageFlow::Pause(until) => pause = pause.max(Some(until)),
                refused @ MessageFlow::Refuse(_) => return refused,
            }
        }
        pause.map_or(MessageFlow::Continue, MessageFlow::Pause)
    }
}
