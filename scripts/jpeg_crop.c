/* A crop of a JPEG on its way into the network, by libjpeg-turbo, for gluon_bot/data/jpeg.py: decoded, scaled, flipped and
   coloured row by row. Compiled by install.sh where jpeglib.h is installed.
   Of an image that is not plain or does not decode without a warning the answer is 0, else 1. */
#include <math.h>
#include <stdio.h>
#include <setjmp.h>
#include <string.h>
#include <jpeglib.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif
#define MARGIN 2 /* columns beside a crop from which its colours are interpolated */
#define ONE 2048 /* a weight of 1, as in OpenCV's bilinear scaling, whose integers these are */

typedef struct { struct jpeg_error_mgr manager; jmp_buf place; } failure;
typedef struct { int first, second; short weight[2]; } neighbours; /* two pixels of which one is interpolated */

static void fail(j_common_ptr image) { longjmp(((failure *)image->err)->place, 1); }

static void fail_at_warnings(j_common_ptr image, int level) {
  if (level < 0) fail(image);
}

/* Read the header: a greyscale or RGB image of one scan that no EXIF orientation turns. */
static int open_plain(struct jpeg_decompress_struct *image, failure *failed, const unsigned char *data, size_t bytes) {
  image->err = jpeg_std_error(&failed->manager);
  failed->manager.error_exit = fail;
  failed->manager.emit_message = fail_at_warnings;
  jpeg_create_decompress(image);
  jpeg_save_markers(image, JPEG_APP0 + 1, 6);
  jpeg_mem_src(image, (unsigned char *)data, bytes);
  jpeg_read_header(image, TRUE);
  for (jpeg_saved_marker_ptr marker = image->marker_list; marker; marker = marker->next)
    if (marker->data_length >= 4 && !memcmp(marker->data, "Exif", 4)) return 0;
  return !jpeg_has_multiple_scans(image) && (image->num_components == 1 || image->num_components == 3);
}

/* found: height and width. */
static int size(const unsigned char *data, size_t bytes, int *found) {
  struct jpeg_decompress_struct image;
  failure failed;
  volatile int plain = 0;
  memset(&image, 0, sizeof image);
  if (!setjmp(failed.place) && open_plain(&image, &failed, data, bytes)) {
    found[0] = image.image_height;
    found[1] = image.image_width;
    plain = 1;
  }
  jpeg_destroy_decompress(&image);
  return plain;
}

/* Where a row or column of `to` lies among `from`. */
static neighbours between(int place, int from, int to) {
  float at = (float)((place + 0.5) * (1. / ((double)to / from)) - 0.5), floor = floorf(at);
  neighbours found = {(int)floor, (int)floor + 1, {(short)lrintf((1.f - (at - floor)) * ONE), (short)lrintf((at - floor) * ONE)}};
  if (found.first < 0) found.first = 0;
  if (found.second > from - 1) found.second = from - 1;
  if (found.first > from - 1) found.first = from - 1;
  return found;
}

/* A row of pixels of three bytes to one of three planes, in 128ths of grey levels. */
VECTORISED static void scale_row(const unsigned char *pixels, const neighbours *columns, int side, short *restrict planes) {
  for (int place = 0; place < side; place++) {
    const unsigned char *first = pixels + columns[place].first, *second = pixels + columns[place].second;
    int left = columns[place].weight[0], right = columns[place].weight[1];
    for (int colour = 0; colour < 3; colour++)
      planes[colour * side + place] = (first[colour] * left + second[colour] * right) >> 4;
  }
}

VECTORISED static void mix_rows(const short *first, const short *second, const short *weight, int numbers, unsigned char *mixed) {
  short upper = weight[0], lower = weight[1];
  for (int place = 0; place < numbers; place++)
    mixed[place] = (((first[place] * upper) >> 16) + ((second[place] * lower) >> 16) + 2) >> 2;
}

VECTORISED static long sum(const unsigned char *numbers, int count) {
  unsigned total = 0;
  for (int place = 0; place < count; place++) total += numbers[place];
  return total;
}

VECTORISED static void colour_row(const unsigned char *row, int side, const float *change, float offset, float *numbers) {
  const unsigned char *green = row + side, *red = green + side;
  for (int place = 0; place < side; place++)
    numbers[place] = row[place] * change[0] + green[place] * change[1] + red[place] * change[2] + offset;
}

/* Rows of planes of blue, green and red to planes of red, green and blue. */
static void colour(const unsigned char *rows, int side, const float (*change)[5], float *planes) {
  double sums[3] = {0, 0, 0};
  for (int row = 0; row < 3 * side; row++) sums[row % 3] += sum(rows + (size_t)row * side, side);
  float grey = (0.114 * sums[0] + 0.587 * sums[1] + 0.299 * sums[2]) / side / side;
  for (int plane = 0; plane < 3; plane++, change++)
    for (int row = 0; row < side; row++, planes += side)
      colour_row(rows + (size_t)row * 3 * side, side, *change, (*change)[3] * grey + (*change)[4], planes);
}

/* box: top, left, height, width in pixels, then whether it is flipped. planes: (3, side, side), red, green, blue.
   change: what each of them is of blue, green, red, the mean grey and one. */
static int prepare(const unsigned char *data, size_t bytes, const int *box, const float (*change)[5], int side, float *planes) {
  struct jpeg_decompress_struct image;
  failure failed;
  volatile int whole = 0;
  int top = box[0], height = box[2], width = box[3];
  memset(&image, 0, sizeof image);
  if (!setjmp(failed.place) && open_plain(&image, &failed, data, bytes) &&
      top >= 0 && box[1] >= 0 && height > 0 && width > 0 && top + height <= (int)image.image_height &&
      box[1] + width <= (int)image.image_width) {
    JDIMENSION left = box[1] > MARGIN ? box[1] - MARGIN : 0, end = box[1] + width + MARGIN;
    JDIMENSION decoded_width = (end < image.image_width ? end : image.image_width) - left;
    image.out_color_space = JCS_EXT_BGR;
    jpeg_start_decompress(&image);
    jpeg_crop_scanline(&image, &left, &decoded_width);
    if (top) jpeg_skip_scanlines(&image, top);
#define NEW(type, count) (type *)image.mem->alloc_large((j_common_ptr)&image, JPOOL_IMAGE, (count) * sizeof(type))
    /* libjpeg-turbo writes past the caches to what is aligned, and the row is read at once */
    JSAMPROW line = NEW(JSAMPLE, 3 * (size_t)image.output_width + 1) + 1;
    neighbours *columns = NEW(neighbours, side);
    short *scaled[2] = {NEW(short, 3 * side), NEW(short, 3 * side)}; /* the last two rows, by parity */
    unsigned char *rows = NEW(unsigned char, 3 * (size_t)side * side);
    for (int place = 0; place < side; place++) {
      neighbours *column = columns + (box[4] ? side - 1 - place : place);
      *column = between(place, width, side);
      column->first = 3 * (column->first + box[1] - (int)left);
      column->second = 3 * (column->second + box[1] - (int)left);
    }
    for (int place = 0, next = 0; place < side; place++) {
      neighbours pair = between(place, height, side);
      for (; next <= pair.second; next++) {
        jpeg_read_scanlines(&image, &line, 1);
        if (next >= pair.first) scale_row(line, columns, side, scaled[next % 2]);
      }
      mix_rows(scaled[pair.first % 2], scaled[pair.second % 2], pair.weight, 3 * side, rows + (size_t)place * 3 * side);
    }
    colour(rows, side, change, planes);
    whole = 1;
  }
  jpeg_destroy_decompress(&image);
  return whole;
}

/* The same of several images, one behind the other. */
void jpeg_sizes(int images, const unsigned char **data, const size_t *bytes, int *found, char *answers) {
  for (int image = 0; image < images; image++)
    answers[image] = size(data[image], bytes[image], found + 2 * image);
}

void jpeg_prepare(int images, const unsigned char **data, const size_t *bytes, const int *boxes, const float (*changes)[5],
                  int side, float *planes, char *answers) {
  for (int image = 0; image < images; image++)
    answers[image] = prepare(data[image], bytes[image], boxes + 5 * image, changes + 3 * image, side,
                             planes + (size_t)image * 3 * side * side);
}
