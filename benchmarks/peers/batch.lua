-- The plain way to batch in nginx with Lua: capture_multi, JSON decoded and encoded.
local cjson = require "cjson"

ngx.req.read_body()
local batch = cjson.decode(ngx.req.get_body_data())
local wanted = {}
for i, item in ipairs(batch.requests) do
  wanted[i] = {item.path, {method = ngx.HTTP_GET}}
end
local answers = {ngx.location.capture_multi(wanted)}
local responses = {}
for i, answer in ipairs(answers) do
  responses[i] = {
    status = answer.status,
    headers = {["content-type"] = answer.header["Content-Type"]},
    body = cjson.decode(answer.body),
  }
end
local written = cjson.encode({responses = responses})
ngx.header["Content-Type"] = "application/json"
ngx.header["Content-Length"] = #written
ngx.print(written)
