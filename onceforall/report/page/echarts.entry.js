// What echarts.min.js is made of: the charts of the report and no others. Made again, in an empty
// folder with this file in it, by
//
//   npm install --no-audit --no-fund echarts@6.1.0 esbuild@0.28.2
//   npx esbuild echarts.entry.js --bundle --minify --format=iife --global-name=echarts \
//     --target=es2020 --define:process.env.NODE_ENV='"production"' --define:__DEV__=false \
//     --legal-comments=none --outfile=echarts.min.js
export { init } from "echarts/core";
import { use } from "echarts/core";
import { CustomChart, LineChart, ParallelChart, ScatterChart } from "echarts/charts";
import { DataZoomInsideComponent, GridComponent, MarkLineComponent, ParallelComponent, TooltipComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";
use([CustomChart, LineChart, ParallelChart, ScatterChart, DataZoomInsideComponent, GridComponent, MarkLineComponent, ParallelComponent, TooltipComponent, CanvasRenderer]);
