// `npm run distil`: see distil.ts.
import { main } from './distil'

await main()
