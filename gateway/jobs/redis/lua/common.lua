-- What every script of the job store begins with. KEYS[1] is the prefix of all keys: one hash slot, one atomic step.
--
-- f:ID       hash    a file: tenant, filename, purpose, bytes, state (w being written, g growing, r ready, d deleted), uses
-- c:ID:N     string  bytes N*CHUNK.. of its content
-- b:ID       hash    a batch                 j:ID  hash  a single job        jb:ID  string  its body
-- i:KEY      hash    an item without a terminal record; KEY is BATCH:LINE or the job's id; `sid` is there while it is claimed
-- q:QUEUE    zset    batches in progress of one class and model, by deadline
-- r:BATCH    zset    its lines that may be claimed, by times lost; members sort by prefix and line
-- d:BATCH    zset    its lines that wait for their next try, by the time of it
-- s:QUEUE, sd:QUEUE  the same for single jobs, s: by deadline;  a:QUEUE  all of them without a result, by deadline
-- work       stream  what is claimed; the group `workers` holds the leases, its idle times are their age
-- dead       stream  what was given up: poisoned items, and entries of others that stood in `work`
-- ends       zset    batches and jobs by deadline          ended  zset  those that have ended, by when
local P = KEYS[1] .. ':'
local CHUNK = 262144
local DELIVERIES, IN_COMPANY = 3, 10
local LEASES = { P .. 'work', 'workers' }
local call = redis.call

local function number(text) return tonumber(text or '') or 0 end
local function exact(value) return string.format('%.17g', value) end
local function count(name, n) call('HINCRBY', P .. 'counters', name, n or 1) end

-- Where an item's key points: its batch and line, or nil for a single job.
local function line_of(key)
  local batch, line = string.match(key, '^(batch_.*):(%d+)$')
  return batch, tonumber(line)
end

local function append(file, data)
  local f = P .. 'f:' .. file
  local size, from = number(call('HGET', f, 'bytes')), 1
  while from <= #data do
    local room = CHUNK - size % CHUNK
    local part = string.sub(data, from, from + room - 1)
    call('APPEND', P .. 'c:' .. file .. ':' .. string.format('%d', math.floor(size / CHUNK)), part)
    size, from = size + #part, from + #part
  end
  call('HSET', f, 'bytes', string.format('%d', size))
end

-- From now on the file exists for its tenant.
local function show(file, at, expires)
  local f = P .. 'f:' .. file
  local tenant = call('HGET', f, 'tenant')
  call('HSET', f, 'state', 'r', 'created_at', at, 'expires_at', expires)
  call('ZADD', P .. 'files:' .. tenant, call('INCR', P .. 'seq'), file)
  if expires ~= '' then call('ZADD', P .. 'file_ends', expires, file)
  else call('ZADD', P .. 'files_made', at, file) end
end

local function hide(file)
  local f = P .. 'f:' .. file
  local tenant = call('HGET', f, 'tenant')
  if not tenant then return end
  call('ZREM', P .. 'files:' .. tenant, file)
  call('ZREM', P .. 'file_ends', file)
  call('ZREM', P .. 'files_made', file)
  call('HSET', f, 'state', 'd')
  call('SADD', P .. 'garbage', file)
end

local function set_status(batch, new)
  local b = P .. 'b:' .. batch
  local old = call('HGET', b, 'status')
  if old then call('HINCRBY', P .. 'statuses', old, -1) end
  call('HINCRBY', P .. 'statuses', new, 1)
  call('HSET', b, 'status', new)
end

-- It takes no more part: neither claimed nor validated nor watched for its deadline.
local function close_batch(batch, status, at)
  local b = P .. 'b:' .. batch
  set_status(batch, status)
  call('HSET', b, 'ended_at', at, status .. '_at', at)
  local queue, member, input = unpack(call('HMGET', b, 'queue', 'member', 'input_file_id'))
  if queue then call('ZREM', P .. 'q:' .. queue, member) end
  call('ZREM', P .. 'validating', batch)
  call('ZREM', P .. 'ends', batch)
  call('SREM', P .. 'closing', batch)
  call('ZADD', P .. 'ended', at, batch)
  call('HINCRBY', P .. 'f:' .. input, 'uses', -1)
end

local function show_output(b, field, at)
  local file, after = unpack(call('HMGET', b, field, 'output_expires_after'))
  if number(call('HGET', P .. 'f:' .. file, 'bytes')) == 0 then
    call('DEL', P .. 'f:' .. file)
    return
  end
  show(file, at, after ~= '' and exact(tonumber(at) + tonumber(after)) or '')
  call('HSET', b, field .. '_file_id', file)
end

-- Every line has its record. What completes is finalized in the same step.
local function end_batch(batch, at)
  local b = P .. 'b:' .. batch
  local ends = { in_progress = 'completed', finalizing = 'expired', cancelling = 'cancelled' }
  local status = ends[call('HGET', b, 'status')]
  if status == 'completed' then call('HSET', b, 'finalizing_at', at) end
  show_output(b, 'output', at)
  show_output(b, 'error', at)
  close_batch(batch, status, at)
end

-- Nobody holds it now.
local function unlease(key, sid)
  call('XACK', LEASES[1], LEASES[2], sid)
  call('XDEL', LEASES[1], sid)
  call('HDEL', P .. 'i:' .. key, 'sid', 'owner')
  local batch = line_of(key)
  if batch then call('HINCRBY', P .. 'b:' .. batch, 'claimed', -1)
  else call('HINCRBY', P .. 'held', call('HGET', P .. 'j:' .. key, 'queue'), -1) end
end

-- Take it out of whatever line it stands in, or out of its worker's hands.
local function take_out(key)
  local i = P .. 'i:' .. key
  local sid, member, queue = unpack(call('HMGET', i, 'sid', 'member', 'queue'))
  local batch = line_of(key)
  if sid then unlease(key, sid)
  elseif batch then
    call('ZREM', P .. 'r:' .. batch, member)
    call('ZREM', P .. 'd:' .. batch, member)
  else
    call('ZREM', P .. 's:' .. queue, member)
    call('ZREM', P .. 'sd:' .. queue, member)
  end
end

-- The terminal record of a line, and the end of its batch if it was the last.
local function end_line(key, batch, ok, record, usage, at)
  local b = P .. 'b:' .. batch
  take_out(key)
  call('DEL', P .. 'i:' .. key)
  for name, tokens in pairs(usage) do
    if tokens > 0 then call('HINCRBY', b, name, tokens) end
  end
  call('HINCRBY', b, ok and 'completed' or 'failed', 1)
  append(call('HGET', b, ok and 'output' or 'error'), record)
  local total, completed, failed = unpack(call('HMGET', b, 'total', 'completed', 'failed'))
  if number(completed) + number(failed) == number(total) then end_batch(batch, at) end
end

-- The result of a single job; from now on its callback is due.
local function end_job(job, state, head, data, at)
  local j = P .. 'j:' .. job
  take_out(job)
  call('DEL', P .. 'i:' .. job)
  call('UNLINK', P .. 'jb:' .. job)
  local queue, callback = unpack(call('HMGET', j, 'queue', 'callback'))
  call('HSET', j, 'state', state, 'ended_at', at, 'head', head, 'data', data)
  call('ZREM', P .. 'a:' .. queue, job)
  call('ZREM', P .. 'ends', job)
  call('ZADD', P .. 'ended', at, job)
  if callback then call('ZADD', P .. 'calls', at, job) end
end

-- Why it ends if it is not finished: `cancelled`, `expired`, or nil while there is time and wish for it.
local function over(key, at)
  local batch = line_of(key)
  local said
  if batch then said = call('HMGET', P .. 'b:' .. batch, 'status', 'expires_at')
  else said = call('HMGET', P .. 'j:' .. key, 'state', 'deadline') end
  if said[1] == 'cancelling' then return 'cancelled' end
  if tonumber(said[2]) <= tonumber(at) then return 'expired' end
end

-- The terminal record of an item that did not run to its end: `cancelled`, `expired` or `poisoned`.
local function give_up(key, why, at)
  local batch, line = line_of(key)
  if not batch then
    end_job(key, why == 'poisoned' and 'failed' or why, HEADS[why], '', at)
    return
  end
  local id = 'batch_req_' .. string.sub(batch, 7) .. string.format('%05x', line)
  local custom_id = cjson.encode(call('HGET', P .. 'i:' .. key, 'custom_id'))
  end_line(key, batch, false, '{"id":"' .. id .. '","custom_id":' .. custom_id .. TAILS[why], {}, at)
end

-- It stands in line: behind its equals if workers vanished with it.
local function stand_in_line(key)
  local i = P .. 'i:' .. key
  local batch = line_of(key)
  local member, lost, queue = unpack(call('HMGET', i, 'member', 'lost', 'queue'))
  if batch then call('ZADD', P .. 'r:' .. batch, number(lost), member)
  else call('ZADD', P .. 's:' .. queue, call('HGET', P .. 'j:' .. key, 'deadline'), member) end
end

-- Its worker let go of it: it waits again (from `not_before` on, if given), or ends if nobody wants it any more.
local function let_go(key, at, not_before)
  local why = over(key, at)
  if why then return give_up(key, why, at) end
  local batch = line_of(key)
  local i = P .. 'i:' .. key
  if not batch then call('HSET', P .. 'j:' .. key, 'state', 'queued') end
  if not not_before then return stand_in_line(key) end
  local member, queue = unpack(call('HMGET', i, 'member', 'queue'))
  call('ZADD', batch and P .. 'd:' .. batch or P .. 'sd:' .. queue, not_before, member)
end

-- Whether this claim is still the last one of an item without a record.
local function held(key, attempt) return call('HGET', P .. 'i:' .. key, 'attempt') == attempt end

-- Milliseconds: the server's clock, so that gateways whose clocks differ do not end each other's leases; the caller's
-- in tests that make up their time.
local function lease_clock(of, at)
  if of == 'caller' then return math.floor(tonumber(at) * 1000) end
  local now = call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
