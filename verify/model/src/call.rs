//! The calls of players, servers and operators: the domain's protocols, and the effect of an outcome on the caller.

use domain::{
    CancelReservation, Claim, Connect, Connected, Disconnect, Effect, Join, Joined, Ledger, LedgerWrite, Party,
    PartyJoined, Placement, PlayerId, PresentedTicket, Protocol, Release, Reply, SeatWrite, ServerId, Span, Step, Time,
    TokenHash,
};

use super::scope::{Scope, player_of, server_of, small};

/// A player who is connected to a server: both writes of register-player have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inside {
    pub server: u8,
    pub player: u8,
    pub placement: Placement,
}

/// The slot in a player's last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    pub server: u8,
    pub placement: Placement,
    /// Time at which the promise ends.
    pub until: Time,
    /// Whether the answer had an address and a ticket.
    pub ready: bool,
}

/// A call of a player, a server or an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Join {
        player: u8,
        join: Box<Join>,
    },
    Party(Party),
    Connect {
        server: u8,
        player: u8,
        ticket: PresentedTicket,
        awaited: bool,
        connect: Connect,
    },
    Disconnect {
        server: u8,
        player: u8,
        placement: Placement,
        grace: Option<Span>,
        awaited: bool,
        disconnect: Disconnect,
    },
    CancelReservation {
        player: u8,
        cancel: CancelReservation,
    },
    Release {
        player: u8,
        release: Release,
    },
    /// A single write without further steps.
    Write,
}

/// The second copy of a write, which takes effect at some later time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Late {
    Ledger(ServerId, LedgerWrite),
    Seat(PlayerId, SeatWrite),
}

/// The next step of a call.
pub enum To {
    /// The call has an effect and waits for its reply.
    Effect(Effect),
    /// The call ends, and its answer gives players their slots.
    Slots(Vec<(u8, Promise)>),
    /// The call ends, and the server admits a player.
    Inside(Inside),
    /// The call ends without an effect on its caller.
    Nothing,
}

/// Returns the token hash of every server. All servers share it, because the model does not check authority.
pub(super) fn token() -> TokenHash {
    TokenHash::of("token")
}

fn promise(ledger: &Ledger, claim: Claim, now: Time) -> Promise {
    let reservation = now + ledger.reservation;
    let until = ledger.endpoint.as_ref().and_then(|_| ledger.expires(claim)).unwrap_or(reservation);
    Promise {
        server: small(server_of(&ledger.id)),
        placement: claim.placement(),
        until,
        ready: ledger.endpoint.is_some(),
    }
}

fn step<P: Protocol>(protocol: &mut P, now: Time, reply: Reply, done: impl FnOnce(P::Outcome) -> To) -> To {
    match protocol.next(now, reply) {
        Step::Effect(effect) => To::Effect(effect),
        Step::Done(outcome) => done(outcome),
        Step::ProtocolError => unreachable!("the model gave a protocol a reply that does not match its effect"),
    }
}

impl Call {
    /// Creates a server's register-player call.
    pub fn connect(server: u8, player: u8, ticket: PresentedTicket) -> Self {
        let connect = Connect::new(token(), Scope::server(server), Scope::player(player), Some(ticket));
        Self::Connect { server, player, ticket, awaited: true, connect }
    }

    /// Creates a server's disconnect call for a player.
    pub fn disconnect(server: u8, player: u8, placement: Placement, grace: Option<Span>) -> Self {
        let (id, about) = (Scope::server(server), Scope::player(player));
        let disconnect = Disconnect::new(token(), id, about, Some(placement), grace);
        Self::Disconnect { server, player, placement, grace, awaited: true, disconnect }
    }

    /// Returns the same call from its start, if its caller will repeat it: a server that waits for the answer and is
    /// `up`.
    pub fn again(&self, up: impl Fn(u8) -> bool) -> Option<Self> {
        match self {
            Self::Connect { server, player, ticket, awaited: true, .. } if up(*server) => {
                Some(Self::connect(*server, *player, *ticket))
            }
            Self::Disconnect { server, player, placement, grace, awaited: true, .. } if up(*server) => {
                Some(Self::disconnect(*server, *player, *placement, *grace))
            }
            _ => None,
        }
    }

    /// Notes that the caller has repeated this call and no longer waits for it.
    pub const fn forget(&mut self) {
        if let Self::Connect { awaited, .. } | Self::Disconnect { awaited, .. } = self {
            *awaited = false;
        }
    }

    /// Returns the name of the call in the description of a path.
    pub fn name(&self) -> String {
        match self {
            Self::Join { player, .. } => format!("p{player} joins"),
            Self::Party(_) => "the party joins".to_owned(),
            Self::Connect { server, player, .. } => format!("s{server} registers p{player}"),
            Self::Disconnect { server, player, .. } => format!("s{server} disconnects p{player}"),
            Self::CancelReservation { player, .. } => format!("p{player} cancels"),
            Self::Release { player, .. } => format!("an operator releases p{player}"),
            Self::Write => "a write".to_owned(),
        }
    }

    /// Passes a reply to the protocol and returns the next step.
    pub fn next(&mut self, now: Time, reply: Reply) -> To {
        match self {
            Self::Join { player, join } => step(join.as_mut(), now, reply, |joined| match joined {
                Joined::Placed(placed) => To::Slots(vec![(*player, promise(&placed.ledger, placed.claim, now))]),
                Joined::Elsewhere(_) | Joined::No(_) => To::Nothing,
            }),
            Self::Party(party) => step(party, now, reply, |joined| match joined {
                PartyJoined::Placed(together) => {
                    let slot = |(player, claim): &(PlayerId, Claim)| {
                        (small(player_of(player)), promise(&together.ledger, *claim, now))
                    };
                    To::Slots(together.players.iter().map(slot).collect())
                }
                PartyJoined::Elsewhere(_) | PartyJoined::TooLarge | PartyJoined::No(_) => To::Nothing,
            }),
            Self::Connect { server, player, awaited, connect, .. } => {
                step(connect, now, reply, |outcome| match outcome {
                    Connected::Admitted(placement) if *awaited => {
                        To::Inside(Inside { server: *server, player: *player, placement })
                    }
                    _ => To::Nothing,
                })
            }
            Self::Disconnect { disconnect, .. } => step(disconnect, now, reply, |_| To::Nothing),
            Self::CancelReservation { cancel, .. } => step(cancel, now, reply, |()| To::Nothing),
            Self::Release { release, .. } => step(release, now, reply, |_| To::Nothing),
            Self::Write => To::Nothing,
        }
    }
}

impl Late {
    /// Returns the write of an effect; none if the effect is no write of one ledger or seat.
    pub fn of(effect: &Effect) -> Option<Self> {
        match effect {
            Effect::WriteLedger(server, write) => Some(Self::Ledger(server.clone(), write.clone())),
            Effect::WriteSeat(player, write) => Some(Self::Seat(player.clone(), write.clone())),
            _ => None,
        }
    }
}
