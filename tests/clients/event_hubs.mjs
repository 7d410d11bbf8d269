// Produces into an event hub or consumes from it, with Microsoft's npm package `@azure/event-hubs`. Events to produce
// come one a line over standard input; the number of the line decides the partition. Prints lines of JSON.
import { readFileSync } from "node:fs";
import { EventHubConsumerClient, EventHubProducerClient, earliestEventPosition } from "@azure/event-hubs";

const [what, port, hub, count] = process.argv.slice(2);
const connection =
  `Endpoint=sb://127.0.0.1:${port};SharedAccessKeyName=policy;SharedAccessKey=bm90IGEga2V5;UseDevelopmentEmulator=true`;
const print = (value) => console.log(JSON.stringify(value));

if (what === "produce") {
  const client = new EventHubProducerClient(connection, hub);
  const { partitionIds } = await client.getEventHubProperties();
  print({ partitionIds });
  const lines = readFileSync(0, "utf8").split("\n");
  for (const [number, partitionId] of partitionIds.entries()) {
    const batch = await client.createBatch({ partitionId });
    for (const line of lines.filter((_, index) => index % partitionIds.length === number)) {
      if (!batch.tryAdd({ body: JSON.parse(line) })) throw new Error("the batch is full");
    }
    await client.sendBatch(batch);
  }
  await client.close();
} else {
  const client = new EventHubConsumerClient("$Default", connection, hub);
  let left = Number(count);
  let subscription;
  await new Promise((done, fail) => {
    subscription = client.subscribe(
      {
        processEvents: async (events, { partitionId }) => {
          for (const { body, sequenceNumber, offset } of events) {
            print({ partition: partitionId, sequence: sequenceNumber, offset, body });
            left -= 1;
          }
          if (left === 0) done();
        },
        processError: async (error) => fail(error),
      },
      { startPosition: earliestEventPosition, maxWaitTimeInSeconds: 1 },
    );
  });
  await subscription.close();
  await client.close();
}
// The client leaves timers behind.
process.exit(0);
