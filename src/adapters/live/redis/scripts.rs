//! What runs inside Redis, since it has to be one step there.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, Script};
use soma_contract::{
    TurnId,
    port::live::{LiveError, Snapshot, TextPosition},
};

/// How long a text outlives its last piece: longer than a turn may last.
const TEXT_LIFE: Duration = Duration::from_mins(15);
/// Digits of an epoch in a head.
const EPOCH: usize = 20;
/// Digits of an epoch and a step in a head: their order is that of (epoch, step).
const AGE: usize = EPOCH + 10;
/// What stands before a text: (epoch, step), then the turn's id.
const HEAD: usize = AGE + 36;

/// Brings the text so far up to date and tells the readers, so that whoever listens and then takes
/// the snapshot misses nothing.
///
/// Epochs belong to the session and only grow, so the older head is late. A text is whole or
/// absent: one whose beginning or middle was missed is forgotten.
const TELL: &str = r"
local key, channel, told = KEYS[1], ARGV[1], ARGV[2]
local age, turn, offset, piece, life = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local head = age .. turn
local known = redis.call('GETRANGE', key, 0, #head - 1)
if known == '' or string.sub(known, 1, #age) <= age then
  if offset == 'reset' then
    redis.call('SET', key, head)
  elseif known == head and redis.call('STRLEN', key) - #head == tonumber(offset) then
    redis.call('APPEND', key, piece)
  elseif offset == '0' then
    redis.call('SET', key, head .. piece)
  else
    redis.call('DEL', key)
  end
  redis.call('PEXPIRE', key, life)
end
redis.call('PUBLISH', channel, told)
";

static TELL_HASH: LazyLock<String> = LazyLock::new(|| Script::new(TELL).get_hash().to_owned());

/// A bucket as the time at which it will be full again, which is when its key expires; by the
/// server's clock. Takes one token and answers 0, or says in how many microseconds there is one.
///
/// A time further away than an empty bucket needs is from before the clock was set back, or from
/// another limit.
pub(super) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local token = 1000000 / tonumber(ARGV[1])
local whole = token * tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
full_at = math.min(math.max(full_at, now), now + whole) + token
local wait = math.ceil(full_at - now - whole)
if wait > 0 then
  return wait
end
redis.call('SET', KEYS[1], string.format('%.2f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return 0
",
    )
});

/// Loads the script that [`tell`] calls. It goes with each batch, since a server that was restarted
/// has forgotten it.
pub(super) fn load() -> Cmd {
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(TELL);
    load
}

/// Tells of a piece of text, or with none that the text is void.
pub(super) fn tell(
    key: &str,
    channel: &str,
    told: &[u8],
    at: &TextPosition,
    piece: Option<&str>,
) -> Cmd {
    let TextPosition { turn_id, epoch, step, offset } = at;
    let offset = if piece.is_some() { offset.to_string() } else { "reset".to_owned() };
    let mut tell = redis::cmd("EVALSHA");
    tell.arg(TELL_HASH.as_str()).arg(1).arg(key).arg(channel).arg(told);
    tell.arg(format!("{epoch:020}{step:010}")).arg(turn_id.to_string()).arg(offset);
    tell.arg(piece.unwrap_or_default()).arg(TEXT_LIFE.as_millis().to_string());
    tell
}

/// Reads what [`tell`] has kept.
///
/// # Errors
///
/// Somebody else has written there.
pub(super) fn snapshot(kept: &str) -> Result<Snapshot, LiveError> {
    let read = || {
        let (head, text) = kept.split_at_checked(HEAD)?;
        let (age, turn) = head.split_at_checked(AGE)?;
        let (epoch, step) = age.split_at_checked(EPOCH)?;
        let turn_id: TurnId = turn.parse().ok()?;
        let (epoch, step) = (epoch.parse().ok()?, step.parse().ok()?);
        let at = TextPosition { turn_id, epoch, step, offset: 0 };
        Some(Snapshot { at, text: text.to_owned() })
    };
    read().ok_or_else(|| LiveError("a text in redis is not of this system".to_owned()))
}

#[cfg(test)]
mod tests {
    use soma_contract::SessionId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_kept_can_be_read() {
        let turn_id = TurnId::of(SessionId(Uuid::from_u128(1)), 1);
        let at = TextPosition { turn_id, epoch: u64::MAX, step: u32::MAX, offset: 0 };
        let kept = format!("{:020}{:010}{turn_id}Grüß Gott", at.epoch, at.step);
        assert_eq!(snapshot(&kept), Ok(Snapshot { at, text: "Grüß Gott".into() }));
    }

    #[test]
    fn what_is_not_of_this_system_is_not_shown() {
        for kept in ["", "text", &"ü".repeat(60), &"7".repeat(80)] {
            assert!(snapshot(kept).is_err(), "{kept}");
        }
    }
}
