//! What Redis runs in one step. Every script touches one slot.
//!
//! The first five work on the sessions of an account, in the layout of [`row`](super::row). `KEYS[1]`
//! is the account's key, `ARGV[1]` the resource.

/// `find` returns where a resource's record starts, where its row starts, and where it ends
/// (exclusive). `put` replaces it, or appends one; `cut` removes it.
macro_rules! with_records {
    ($body:literal) => {
        concat!(
            r"
local key, resource = KEYS[1], ARGV[1]
local value = redis.call('GET', key) or ''
local function find()
  local i, n = 1, #value
  while i <= n do
    local rl, bl = struct.unpack('>I2I4', value, i)
    local body = i + 6 + rl
    if rl == #resource and string.sub(value, i + 6, body - 1) == resource then
      return i, body, body + bl
    end
    i = body + bl
  end
end
local from, body, to = find()
local row = from and string.sub(value, body, to - 1)
local function sequence(r)
  local hi, lo = struct.unpack('>I4I4', string.sub(r, 9, 16))
  return hi * 4294967296 + lo
end
local function put(new)
  local record = struct.pack('>I2I4', #resource, #new) .. resource .. new
  if from then
    record = string.sub(value, 1, from - 1) .. record .. string.sub(value, to)
  else
    record = value .. record
  end
  redis.call('SET', key, record)
end
local function cut()
  local rest = string.sub(value, 1, from - 1) .. string.sub(value, to)
  if rest == '' then redis.call('DEL', key) else redis.call('SET', key, rest) end
end
",
            $body
        )
    };
}

/// `ARGV`: resource, epoch (8 bytes), what follows the sequence (3 bytes).
/// Returns the new sequence and the row that was there.
pub(crate) const REGISTER: &str = with_records!(
    r"
local time = redis.call('TIME')
local seq = time[1] * 1000000 + time[2]
if row and sequence(row) >= seq then seq = sequence(row) + 1 end
put(ARGV[2] .. struct.pack('>I4I4', math.floor(seq / 4294967296), seq % 4294967296) .. ARGV[3])
return {seq, row or false}
"
);

/// `ARGV`: resource, the new row. Returns 0 if the row there is of another session, else 1.
pub(crate) const UPDATE: &str = with_records!(
    r"
if row and string.sub(row, 1, 16) ~= string.sub(ARGV[2], 1, 16) then return 0 end
put(ARGV[2])
return 1
"
);

/// `ARGV`: resource, owner (16 bytes). Returns 1 if the row was removed, 0 if it is not there or
/// another node's, 2 if another session of the same node has it.
pub(crate) const UNREGISTER: &str = with_records!(
    r"
if not row then return 0 end
if string.sub(row, 1, 16) == ARGV[2] then cut() return 1 end
if string.sub(row, 1, 8) == string.sub(ARGV[2], 1, 8) then return 2 end
return 0
"
);

/// `ARGV`: resource, the row. Returns 0 if a newer session has the resource, else 1.
pub(crate) const REPUBLISH: &str = with_records!(
    r"
if row and sequence(row) > sequence(ARGV[2]) then return 0 end
put(ARGV[2])
return 1
"
);

/// `ARGV`: resource, head (17 bytes). Returns 1 if the row was removed, else 0.
pub(crate) const REMOVE: &str = with_records!(
    r"
if not row or string.sub(row, 1, 17) ~= ARGV[2] then return 0 end
cut()
return 1
"
);

/// Takes a lease that is not there, and ends a claim on this node.
/// `KEYS`: lease, claim. `ARGV`: name, time to live in ms.
pub(crate) const TAKE_LEASE: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
";

/// Claims a node that has no lease, or renews the claim.
/// `KEYS`: lease, claim. `ARGV`: own epoch, time to live in ms. Returns 1 if the claim is held.
pub(crate) const CLAIM: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
";

/// Removes JIDs from the sessions of a claimed node, and renews the claim.
/// `KEYS`: lease, claim, sessions. `ARGV`: own epoch, time to live in ms, JIDs.
/// Returns 0 if the claim is not held, else 1.
pub(crate) const FORGET: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for i = 3, #ARGV do redis.call('SREM', KEYS[3], ARGV[i]) end
return 1
";

/// Ends a claim whose node is cleaned up.
/// `KEYS`: lease, claim, sessions. `ARGV`: own epoch.
/// Returns 0 if the claim is not held, else 1.
pub(crate) const CLOSE: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[3])
redis.call('DEL', KEYS[2])
return 1
";

/// All of them, to be loaded on each new connection.
pub(crate) const ALL: &[&str] = &[
    REGISTER, UPDATE, UNREGISTER, REPUBLISH, REMOVE, TAKE_LEASE, CLAIM, FORGET, CLOSE,
];
