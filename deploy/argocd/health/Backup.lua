end
local ready = found.Ready
if ready ~= nil and ready.reason == "Paused" then
  return { status = "Suspended", message = told(ready, "paused") }
end
if is("Ready", "True") then
  return { status = "Healthy", message = told(ready, "complete") }
end
return { status = "Progressing", message = told(ready, "not complete yet") }
