// The plain way to batch in nginx with njs: a subrequest for each item, JSON parsed and written again.
export default { answer };

async function answer(r) {
  const batch = JSON.parse(r.requestText);
  const answers = await Promise.all(batch.requests.map((item) => r.subrequest(item.path, { method: item.method })));
  const responses = answers.map((each) => ({
    status: each.status,
    headers: { "content-type": each.headersOut["Content-Type"] },
    body: JSON.parse(each.responseText),
  }));
  r.headersOut["Content-Type"] = "application/json";
  r.return(200, JSON.stringify({ responses }));
}
