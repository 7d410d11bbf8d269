//! Limits on the number of connections, in total and per client address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;

/// The slots for connections.
#[derive(Debug)]
pub(super) struct Places {
    in_all: usize,
    of_one: Option<NonZeroUsize>,
    taken: Mutex<Taken>,
    /// The gauge of open connections.
    open: IntGauge,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    /// Counted only if there is a limit per address.
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection got no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The limit of all connections is reached.
    InAll,
    /// The limit of this address is reached.
    OfAddress,
}

/// A connection's slot, released on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    pub(super) fn new(in_all: usize, of_one: Option<NonZeroUsize>, open: IntGauge) -> Arc<Self> {
        Arc::new(Self { in_all, of_one, taken: Mutex::default(), open })
    }

    /// Takes a slot for a connection from this address.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = network(address);
        let mut taken = self.taken();
        if taken.in_all >= self.in_all {
            return Err(Full::InAll);
        }
        if let Some(limit) = self.of_one {
            let of_address = taken.by_address.entry(address).or_default();
            if *of_address >= limit.get() {
                return Err(Full::OfAddress);
            }
            *of_address += 1;
        }
        taken.in_all += 1;
        self.open.inc();
        Ok(Place { places: Arc::clone(self), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.in_all -= 1;
        self.places.open.dec();
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: for IPv6 the /64 network, since a single machine can use any address within it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(in_all: usize, of_one: usize) -> Arc<Places> {
        Places::new(in_all, NonZeroUsize::new(of_one), IntGauge::new("open", "open").unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_that_is_left_can_be_taken_again() {
        let places = places(2, 0);
        let one = places.take(address("192.0.2.1")).unwrap();
        let _other = places.take(address("192.0.2.1")).unwrap();
        assert_eq!(places.take(address("192.0.2.2")).unwrap_err(), Full::InAll);
        assert_eq!(places.open.get(), 2);
        drop(one);
        assert_eq!(places.open.get(), 1);
        places.take(address("192.0.2.2")).unwrap();
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let places = places(100, 2);
        for same in [["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], ["2001:db8::1", "2001:db8::2", "2001:db8::9:1"]] {
            let [one, other, third] = same.map(address);
            let _one = places.take(one).unwrap();
            let left = places.take(other).unwrap();
            assert_eq!(places.take(third).unwrap_err(), Full::OfAddress);
            drop(left);
            places.take(third).unwrap();
        }
        places.take(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(places.taken().by_address, HashMap::new());
    }
}
